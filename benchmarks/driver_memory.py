#!/usr/bin/env python3
"""Peak memory of the driver for 100 k recipes ÷ for 10 k, with a generator that costs nothing (goal: flat).

python -m benchmarks.driver_memory
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import machine
from engine.testing.makers import FlatMaker, FlatPlan


def fill(num: int) -> None:
    """Fills a fresh workspace and prints this process' peak memory in MiB."""
    from engine.costs import PriceBook
    from engine.dataflow.cluster import connected_cluster
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.models import load_encoder
    from engine.store import Workspace

    with tempfile.TemporaryDirectory() as folder, connected_cluster():
        workspace = Workspace.open(Path(folder) / "workspace")
        with Run(workspace, PriceBook.load()) as run:
            stages = [Embed.of(load_encoder("mini-clip"))]
            assert run.fill("flat", FlatPlan(num), FlatMaker(), stages).made == num
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Prints both peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, help="measure this many recipes in this process")
    options = parser.parse_args()
    if options.num:
        fill(options.num)
        return
    print(machine())
    peaks = []
    for num in (10_000, 100_000):
        command = [sys.executable, "-m", "benchmarks.driver_memory", "--num", str(num)]
        peaks.append(float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]))
        print(f"{num:>9,} recipes: peak of the driver {peaks[-1]:,.0f} MiB", flush=True)
    print(f"100 k ÷ 10 k: {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
