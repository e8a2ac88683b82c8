"""A driver for tests to kill: fills a slow plan on a Ray of its own."""

import sys
from dataclasses import dataclass, field

from engine.command import run_command
from engine.costs import PriceBook
from engine.dataflow.run import Run
from engine.store import Workspace
from engine.testing.makers import PaintMaker, PaintPlan, paint_embed


@dataclass(frozen=True)
class Config:
    """What to fill."""

    workspace: str
    num: int = 600
    num_read: int = 0
    max_workers: int | None = 1
    max_errors: float = 0.2
    maker: PaintMaker = field(default_factory=lambda: PaintMaker(seconds_per_call=0.1))


def main(config: Config) -> None:
    run = Run(
        Workspace.open(config.workspace),
        PriceBook.load(),
        commit_every_seconds=0.5,
        flush_seconds=0.5,
        max_workers=config.max_workers,
        max_errors=config.max_errors,
    )
    with run:
        result = run.fill("paint", PaintPlan(config.num, config.num_read), config.maker, [paint_embed()])
        print(result)


if __name__ == "__main__":
    sys.exit(run_command(Config, main, "Fills a slow plan."))
