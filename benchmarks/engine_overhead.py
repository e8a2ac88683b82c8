#!/usr/bin/env python3
"""Steady images per second of the engine ÷ a bare loop of the same model with one process per core, in pairs.

    python -m benchmarks.engine_overhead            # miniature generator
    python -m benchmarks.engine_overhead --row-ms 50  # rows that take 50 ms of waiting

The bare loop generates, embeds and discards the result; the engine also encodes, hashes, writes and commits.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty
from typing import Any

from benchmarks.common import machine, show, steady_rate
from engine.models import GeneratorSpec, generator_spec
from engine.recipe import Recipe
from engine.testing.makers import FlatMaker, FlatPlan


@dataclass(frozen=True)
class MiniPlan(FlatPlan):
    """The miniature generator's recipes."""

    spec: GeneratorSpec = field(default_factory=lambda: generator_spec("mini"))

    def __getitem__(self, index: int) -> Recipe:
        spec = self.spec
        return replace(
            super().__getitem__(index),
            prompt=f"a photo of {('an apple', 'a house', 'a clock', 'a chair')[index % 4]}",
            generator=spec.name,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            height=spec.height,
            width=spec.width,
        )


def make_maker(row_ms: float) -> Any:
    """The maker under test."""
    from engine.sources import GeneratorMaker

    if row_ms:
        return FlatMaker(row_ms / 1000)
    spec = generator_spec("mini")
    return GeneratorMaker("mini", spec.batch_size, spec.num_gpus)


def bare_worker(row_ms: float, recipes: list[Recipe], done: Any) -> None:
    """One process of the bare loop."""
    import torch

    from engine.models import load_encoder

    torch.set_num_threads(1)
    maker, encoder = make_maker(row_ms), load_encoder("mini-clip")
    maker.load("cpu")
    step = maker.rows_per_call
    for start in range(0, len(recipes), step):
        made = maker.make(recipes[start : start + step])
        encoder.encode_images([one.pixels for one in made])
        done.put((time.monotonic(), len(made)))


def bare_rate(row_ms: float, num: int) -> float:
    """Images per second of one process per core, each with its share of the recipes."""
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    cores = os.cpu_count() or 1
    plan = (FlatPlan if row_ms else MiniPlan)(num)
    recipes = [plan[index] for index in range(num)]
    workers = [context.Process(target=bare_worker, args=(row_ms, recipes[core::cores], done)) for core in range(cores)]
    for worker in workers:
        worker.start()
    arrivals, rows = [], 0
    while rows < num:
        try:
            moment, count = done.get(timeout=120)
        except Empty:
            raise SystemExit("a bare worker died") from None
        rows += count
        arrivals.append((moment, rows))
    for worker in workers:
        worker.join()
    return steady_rate(arrivals)


def engine_rate(row_ms: float, num: int) -> float:
    """Images per second of the engine, from the leases that workers report as made."""
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.models import load_encoder
    from engine.store import Workspace

    arrivals: list[tuple[float, int]] = []

    def arrive(report: Any) -> None:
        made = arrivals[-1][1] if arrivals else 0
        arrivals.append((time.monotonic(), made + report.rows))

    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.open(Path(folder) / "workspace")
        with Run(workspace, PriceBook.load(), on_report=arrive) as run:
            stages = [Embed.of(load_encoder("mini-clip"))]
            result = run.fill("engine", (FlatPlan if row_ms else MiniPlan)(num), make_maker(row_ms), stages)
        assert result.made == workspace.count() == num
    return steady_rate(arrivals)


def main() -> None:
    """Prints both rates and their ratio."""
    from engine.dataflow.cluster import connected_cluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--row-ms", type=float, default=0, help="waiting rows of so many ms instead of the miniature generator"
    )
    parser.add_argument(
        "--images", type=int, default=0, help="images a measurement (default: one to two minutes of work)"
    )
    parser.add_argument("--pairs", type=int, default=3, help="pairs of measurements")
    options = parser.parse_args()
    num = options.images or (5120 if options.row_ms else 12_288)
    print(machine())
    bare, engine = [], []
    for _ in range(options.pairs):
        bare.append(bare_rate(options.row_ms, num))
        with connected_cluster():
            engine.append(engine_rate(options.row_ms, num))
    show("bare loop", bare, "images/s")
    show("engine", engine, "images/s")
    show(
        "engine ÷ bare loop",
        [ours / theirs for ours, theirs in zip(engine, bare, strict=True)],
        "(goal: >= 0.98)" if options.row_ms else "(goal: >= 0.95)",
    )


if __name__ == "__main__":
    main()
