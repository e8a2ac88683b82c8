#!/usr/bin/env python3
"""Time of a commit on a large table of trivial rows, in few fragments and in many.

    python -m benchmarks.commit_time --rows 10000000 --fragments 100 1000

docs/scale.md has the results.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine


def commits(rows: int, fragments: Sequence[int]) -> None:
    """Milliseconds of a commit on a table of that many rows, in few fragments and in many."""
    from engine.store import Committer, Workspace, write_fragments

    for number in fragments:
        with tempfile.TemporaryDirectory() as name:
            workspace = Workspace.open(Path(name) / "workspace")
            part = rows // number
            with workspace.lock("commits"), Committer(workspace) as committer:
                for start in range(0, rows, part):
                    committer.add(
                        write_fragments(workspace.uri, "images", trivial_rows(start, min(part, rows - start)))
                    )
            print(
                f"{machine()}; {workspace.count():,} rows in {len(workspace.dataset('images').get_fragments()):,} fragments"
            )
            with workspace.lock("commits"):
                taken = timed([_commit(workspace, rows + at * 64) for at in range(20)])
            print(
                f"  commit of 64 rows: median {np.median(taken) * 1e3:.0f} ms, most {max(taken) * 1e3:.0f} ms",
                flush=True,
            )


def _commit(workspace: Any, start: int) -> Callable[[], object]:
    from engine.store import Committer, write_fragments

    receipt = write_fragments(workspace.uri, "images", trivial_rows(start, 64))
    committer = Committer(workspace)
    committer.add(receipt)
    return committer.flush


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each call."""
    found = []
    for call in calls:
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found


def trivial_rows(start: int, num: int) -> Any:
    """Rows of `images` with ids of their own and four bytes of image."""
    import pyarrow as pa

    from engine.recipe import IMAGE_SCHEMA

    fillers: dict[Any, Any] = {pa.string(): "x", pa.large_binary(): b"none", pa.float64(): 0.5}
    columns = {field.name: pa.repeat(pa.scalar(fillers.get(field.type, 1), field.type), num) for field in IMAGE_SCHEMA}
    columns["id"] = pa.array([f"{number:032x}" for number in range(start, start + num)])
    columns["seed"] = pa.array(np.arange(start, start + num))
    return pa.table(columns, schema=IMAGE_SCHEMA)


def main() -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--fragments", type=int, nargs="+", default=(100, 1_000))
    options = parser.parse_args()
    commits(options.rows, options.fragments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
