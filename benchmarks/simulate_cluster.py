#!/usr/bin/env python3
"""Which part of a run is its first bottleneck, from 1 to 512 GPUs and from a million to a billion images.

    python -m benchmarks.simulate_cluster            # measures this machine's unit costs (a minute), then works out the table
    python -m benchmarks.simulate_cluster --check    # beside real runs with 1, 2 and 4 workers

A fluid model: each shared part of a run (the thread that hashes the plan, the loop that takes reports, the commits, compaction, the driver's
memory) has a unit cost, measured here, and a load, worked out from the rate of the GPUs. A part whose load is above its capacity
is a bottleneck. It knows nothing of networks, stragglers, or the store's own limits.
"""

import argparse
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commit_time import trivial_rows
from benchmarks.common import machine
from benchmarks.million import big_plan, cheap_models
from engine.dataflow.leases import LEASE_SECONDS, MAX_ROWS
from engine.dataflow.run import Run
from engine.dataflow.worker import FRAGMENT_BYTES
from engine.store.compaction import BYTES_PER_FRAGMENT, ROWS_PER_FRAGMENT

GPUS = (1, 8, 64, 512)
IMAGES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
RATE = 4.82
"""Images per second of an H100: SD 2.1, 512 x 512, 50 steps, `--speed fast`, batch 32 (benchmarks/results/2026-11-27-gpu.md)."""
IMAGE_BYTES = 436_000
"""A PNG of a photograph at 512 x 512 (benchmarks/results/2026-11-27-image-formats.md)."""
INSTANCE = "aws-p5-48xlarge"
"""Instance of the price book that the GPUs are in."""


@dataclass(frozen=True)
class Costs:
    """Unit costs of one driver."""

    hash_seconds: float
    """Per recipe, in the thread that hashes the plan."""
    report_seconds: float
    """Per lease, in the loop that hands leases out and takes reports."""
    commit_seconds: float
    """Per commit, …"""
    commit_seconds_per_file: float
    """… and more per file that the table has."""
    manifest_bytes_per_file: float
    """Size of what a commit writes, per file; within `commit_seconds_per_file`."""
    merge_bytes_per_second: float
    """Bytes that one merge writes."""
    bytes_per_recipe: float = 34.0
    """Memory: two bits of state as bytes, the id of what is missing and, after a restart, of what is there (16 each)."""


@dataclass(frozen=True)
class Design:
    """Choices that move a bottleneck; those of the engine by default."""

    name: str
    fragment_bytes: float = FRAGMENT_BYTES
    flush_seconds: float = Run.flush_seconds
    rewrites: float = 1.4
    """Bytes that compaction writes per byte made (docs/scale.md); 0 if nothing is merged."""
    gpus_per_merge: int = 8
    """One merge runs on a node of so many GPUs; 0 if the driver merges, one file after the other."""
    drivers: int = 1
    """Each has its part of the plan and a table of its own."""


GATHERED = Design("files of 512 MB from the workers, no merging", BYTES_PER_FRAGMENT, 600, 0.0)
IN_DRIVER = Design("merging in the driver, as where nodes have no processors to spare", gpus_per_merge=0)
DESIGNS = (Design("as built"), IN_DRIVER, GATHERED, replace(GATHERED, name="the same, and 8 drivers", drivers=8))
MEMORY_BYTES = 64e9
"""Memory of the driver's node."""


def loads(costs: Costs, design: Design, gpus: int, images: int) -> dict[str, float]:
    """Part → its load ÷ its capacity, per driver."""
    rate, gpus_each, images_each = gpus * RATE / design.drivers, gpus / design.drivers, images / design.drivers
    leases = max(rate / MAX_ROWS, gpus_each / LEASE_SECONDS)
    files_per_second = max(gpus_each / design.flush_seconds, rate * IMAGE_BYTES / design.fragment_bytes)
    if design.rewrites:  # at most a few hundred small files wait beside the merged ones
        files = max(images_each / ROWS_PER_FRAGMENT, images_each * IMAGE_BYTES / BYTES_PER_FRAGMENT) + 200
    else:
        files = files_per_second * images_each / rate
    mergers = max(1.0, gpus_each / design.gpus_per_merge) if design.gpus_per_merge else 1.0
    commit = costs.commit_seconds + costs.commit_seconds_per_file * files
    return {
        "plan": rate * costs.hash_seconds,
        "reports": leases * costs.report_seconds,
        "commits": commit / Run.commit_every_seconds,
        "merging": rate * IMAGE_BYTES * design.rewrites / (costs.merge_bytes_per_second * mergers),
        "memory": images_each * costs.bytes_per_recipe / MEMORY_BYTES,
    }


def measure() -> Costs:
    """Unit costs on this machine."""
    with tempfile.TemporaryDirectory() as name:
        spec, _ = cheap_models(Path(name))
        plan = big_plan(spec)
        hashing = per_call(lambda index: plan[index * 97].id, 10_000)
    few, many = commit_costs(10), commit_costs(3_000)
    per_file = max(0.0, (many[0] - few[0]) / 2_990)
    _, per_lease = real_run(2, 0.01, 6_000)
    return Costs(hashing, per_lease, few[0], per_file, (many[1] - few[1]) / 2_990, merge_speed())


def per_call(call: Any, times: int) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    for number in range(times):
        call(number)
    return (time.process_time() - started) / times


def commit_costs(files: int) -> tuple[float, float]:
    """Seconds of a commit to a table of so many files, and bytes of its manifest."""
    from engine.store import Committer, Workspace, write_fragments

    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace.open(Path(name) / "workspace")
        with workspace.lock("files"), Committer(workspace) as committer:
            for number in range(files):
                committer.add(write_fragments(workspace.uri, "images", trivial_rows(number * 8, 8)))
        taken = []
        with workspace.lock("commits"):
            for number in range(15):
                committer = Committer(workspace)
                committer.add(write_fragments(workspace.uri, "images", trivial_rows((files + number) * 8, 8)))
                started = time.perf_counter()
                committer.flush()
                taken.append(time.perf_counter() - started)
        newest = max(
            (Path(name) / "workspace" / "images.lance" / "_versions").glob("*.manifest"),
            key=lambda one: one.stat().st_mtime_ns,
        )
        return float(np.median(taken)), float(newest.stat().st_size)


def real_run(workers: int, seconds_per_row: float, num: int) -> tuple[float, float]:
    """Rows per second of a run whose rows are waits, and processor seconds of the driver per lease, without those of hashing."""
    from benchmarks.common import steady_rate
    from engine.costs import PriceBook
    from engine.dataflow.stages import Embed
    from engine.store import Workspace
    from engine.testing.makers import FlatMaker, FlatPlan, PaintEncoder, load_paint_encoder

    plan, arrivals, leases = FlatPlan(num), list[tuple[float, int]](), 0
    used = list[float]()

    def noted(report: Any) -> None:
        nonlocal leases
        if report.rows:
            leases += 1
            arrivals.append((time.monotonic(), report.rows + (arrivals[-1][1] if arrivals else 0)))
            used.append(time.process_time())

    stage = Embed.of(PaintEncoder(), load_paint_encoder)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace.open(Path(name) / "workspace")
        with Run(workspace, PriceBook.load(), max_workers=workers, device="cpu", on_report=noted) as run:
            run.fill("wait", plan, FlatMaker(seconds_per_row, rows_per_call=8), [stage])
    hashing = per_call(lambda index: plan[index].id, min(num, 5_000)) * num
    per_lease = (used[-1] - used[0] - hashing) / max(1, leases - 1)
    return steady_rate(arrivals), max(0.0, per_lease)


def merge_speed(megabytes: int = 600) -> float:
    """Bytes per second that compaction writes, with images of the modelled size."""
    import pyarrow as pa

    from engine.store import Committer, Workspace, write_fragments

    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace.open(Path(name) / "workspace")
        rows = 16
        picture = np.random.default_rng(0).bytes(IMAGE_BYTES)
        with workspace.lock("merge"):
            with Committer(workspace) as committer:
                for start in range(0, megabytes * 1_000_000 // IMAGE_BYTES, rows):
                    table = trivial_rows(start, rows)
                    column = pa.array([picture] * rows, pa.large_binary())
                    place = table.schema.get_field_index("image")
                    table = table.set_column(place, table.schema.field(place), column)
                    committer.add(write_fragments(workspace.uri, "images", table))
            started = time.perf_counter()
            written = workspace.compact(clean=False)
            return written / (time.perf_counter() - started)


def table(costs: Costs, design: Design) -> None:
    """Prints the loads of a design."""
    from engine.costs import PriceBook

    instance = PriceBook.load().instance(INSTANCE)
    print(f"\n{design.name}")
    print(f"{'GPUs':>5} {'images':>14} {'hours':>9} {'USD':>12}  load of each part ÷ its capacity; first bottleneck")
    for gpus in GPUS:
        for images in IMAGES:
            found = loads(costs, design, gpus, images)
            hours = images / (gpus * RATE) / 3600
            usd = hours * gpus * instance.usd_per_hour / instance.num_gpus
            name, worst = max(found.items(), key=lambda item: item[1])
            shown = "  ".join(f"{part} {load:.3f}" for part, load in found.items())
            print(f"{gpus:>5} {images:>14,} {hours:>9,.0f} {usd:>12,.0f}  {shown}  {name if worst > 1 else '-'}")


def check() -> None:
    """Real runs of rows that only wait: the model says that nothing is a bottleneck, so rows per second are workers ÷ seconds per row."""
    seconds_per_row = 0.02
    for workers in (1, 2, 4):
        measured, _ = real_run(workers, seconds_per_row, 1_500 * workers)
        expected = workers / seconds_per_row
        print(
            f"{workers} workers: {measured:6.1f} rows/s, model {expected:6.1f}, ratio {measured / expected:.3f}",
            flush=True,
        )


def main() -> None:
    """Prints the unit costs, and the table of each design or the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with real runs")
    options = parser.parse_args()
    # workers that wait need no core of their own
    os.environ.setdefault("RAY_OVERRIDE_RESOURCES", '{"CPU": 4}')
    print(machine())
    if options.check:
        check()
        return
    costs = measure()
    for name, value in asdict(costs).items():
        print(f"{name:26} {value:.3g}")
    for design in DESIGNS:
        table(costs, design)


if __name__ == "__main__":
    main()
