"""`python -m engine.world DIR`: draw the miniature world into a folder."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from engine.world.write import WORLD, WorldConfig, write_world


@dataclass(frozen=True)
class Command:
    """Draw the miniature world: four labelled data sets and a captioned web pool, as webdataset folders."""

    folder: Annotated[Path, tyro.conf.Positional]
    """New or empty folder; one that already holds this world is left as it is."""
    world: Annotated[WorldConfig, tyro.conf.arg(name="")] = field(default_factory=WorldConfig)
    """How large the world is."""
    datasets: tuple[str, ...] = WORLD
    """What to draw; `mini-many` is drawn only when it is asked for."""
    processes: int = 0
    """Processes that draw; 0 takes one a core."""


def main() -> int:
    """Run the command; returns the exit code."""
    try:
        command = tyro.cli(Command, prog="python -m engine.world")
        shown = sys.stderr.isatty()

        def say(line: str) -> None:
            print(f"\r{line}   " if shown else line, end="" if shown else "\n", file=sys.stderr, flush=True)

        written = write_world(command.folder, command.world, command.processes, say, command.datasets)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'wrote' if written else 'already complete:'} {command.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
