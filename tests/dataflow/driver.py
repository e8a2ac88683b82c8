"""A driver for tests to kill: fills a slow plan."""

import sys
from dataclasses import dataclass

from engine.command import run_command
from engine.costs import PriceBook
from engine.dataflow.cluster import connected_cluster
from engine.dataflow.run import Run
from engine.models import load_encoder
from engine.store import Workspace
from tests.dataflow.paint import PaintMaker, PaintPlan


@dataclass(frozen=True)
class Config:
    """What to fill."""

    workspace: str
    encoder: str
    num: int


def main(config: Config) -> None:
    with (
        connected_cluster(),
        Run(
            Workspace.open(config.workspace), load_encoder(config.encoder), PriceBook.load(), commit_every_seconds=0.5
        ) as run,
    ):
        run.fill("paint", PaintPlan(config.num), PaintMaker(seconds_per_call=0.1))


if __name__ == "__main__":
    sys.exit(run_command(Config, main, "Fills a slow plan."))
