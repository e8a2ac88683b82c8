"""A driver for tests to kill: fills a slow plan."""

import sys
from dataclasses import dataclass, replace
from typing import Any

from engine.command import run_command
from engine.costs import PriceBook
from engine.dataflow import run
from engine.dataflow.cluster import connected_cluster
from engine.store import Workspace
from tests.dataflow.paint import PaintMaker, PaintPlan


@dataclass(frozen=True)
class Encoder:
    """What a run asks of its encoder, which only the workers load."""

    name: str
    dimension: int
    source: str


@dataclass(frozen=True)
class Config:
    """What to fill."""

    workspace: str
    encoder: Encoder
    num: int


def main(config: Config) -> None:
    size_pool = run.size_pool
    run.size_pool = lambda *arguments: replace(size_pool(*arguments), num_actors=1)
    encoder: Any = config.encoder
    with (
        connected_cluster(),
        run.Run(Workspace.open(config.workspace), encoder, PriceBook.load(), commit_every_seconds=0.5) as started,
    ):
        started.fill("paint", PaintPlan(config.num), PaintMaker(seconds_per_call=0.1))


if __name__ == "__main__":
    sys.exit(run_command(Config, main, "Fills a slow plan."))
