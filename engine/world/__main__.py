"""`python -m engine.world DIR`, also `imagefoundry world DIR`: render the miniature world into a folder."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from engine.command import run_command
from engine.world.write import WORLD, WorldConfig, write_world


@dataclass(frozen=True)
class Command:
    """Render the miniature world: four labelled data sets and a captioned web pool, as webdataset folders."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """New or empty folder; one that already holds this world is left as it is."""
    world: Annotated[WorldConfig, tyro.conf.arg(name="")] = field(default_factory=WorldConfig)
    """Size of the world."""
    datasets: tuple[str, ...] = WORLD
    """Data sets to render; `mini-many` and `mini-pairs` are rendered only if they are named."""
    processes: int = 0
    """Processes that render; 0 means one per core."""


def run(command: Command) -> bool:
    """Renders what is missing and prints progress on stderr; returns whether anything was written."""
    is_terminal = sys.stderr.isatty()

    def say(line: str) -> None:
        print(f"\r{line}   " if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    return write_world(command.folder, command.world, command.processes, say, command.datasets)


def main() -> int:
    """Runs the command; returns the exit code."""

    def action(command: Command) -> None:
        print(f"{'wrote' if run(command) else 'already complete:'} {command.folder}")

    return run_command(Command, action, str(Command.__doc__), program="python -m engine.world")


if __name__ == "__main__":
    sys.exit(main())
