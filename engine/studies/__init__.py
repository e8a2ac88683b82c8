"""Studies: whole experiments of the papers over the engine, each a config and a function that returns a report."""
