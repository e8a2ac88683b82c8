"""The command `imagefoundry`: one row of `engine.cli.table` per subcommand, and one file per command about a workspace."""
