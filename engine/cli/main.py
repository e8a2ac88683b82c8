"""The entry points: `main` for the command `imagefoundry`, `run_job` for the scripts in `jobs/`."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from engine import __version__
from engine.cli.table import COMMANDS
from engine.command import run_command
from engine.names import unknown_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the subcommand that the first argument names; returns its exit code (see `engine.command.run_command`)."""
    name, *rest = (list(sys.argv[1:]) if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"imagefoundry {__version__}")
        return 0
    if name not in COMMANDS:
        hint = "imagefoundry --help lists all"
        print(f"error: {unknown_name('command', name, list(COMMANDS), hint)}", file=sys.stderr)
        return 2
    return run_job(name, rest, f"imagefoundry {name}")


def run_job(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Runs one subcommand with these arguments (those of the process by default); returns its exit code.

    `program` is the name that the command's help shows; the script's own by default.
    """
    command = COMMANDS[name]
    module = import_module(command.module)

    def action(config: Any) -> int | None:
        return command.say(config, getattr(module, command.action)(config))

    config, example = getattr(module, command.config), f"imagefoundry {name} {command.example}".rstrip()
    return run_command(config, action, command.summary, arguments=arguments, program=program, example=example)


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: imagefoundry COMMAND [flags]\n\nMakes labelled images and records the cost of each.\n\ncommands:\n"
        f"{rows}\n\nimagefoundry COMMAND --help lists the flags of a command; imagefoundry --version prints the version."
    )
