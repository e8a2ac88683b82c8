#!/usr/bin/env python3
"""Time from the job's start to its first committed row ÷ `ray.init` alone, both as fresh processes, in pairs.

For comparison, a lower bound for every job that embeds: `ray.init`, and one actor that has imported open_clip.

python -m benchmarks.first_row
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, show
from engine.store import Workspace

INIT = (
    "import os, ray; ray.init(address='local', num_cpus=os.cpu_count(), include_dashboard=False, logging_level='ERROR')"
)
UP = "; print('up', flush=True); ray.shutdown()"
ACTOR = "; ray.get(ray.remote(type('Actor', (), {'load': lambda self: __import__('open_clip') and None})).remote().load.remote())"


def seconds_until_up(program: str) -> float:
    """Seconds from process start until the program has printed a line."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    seconds = time.perf_counter() - started
    process.wait()
    return seconds


def first_row_seconds(job: list[str]) -> float:
    """Seconds from the job's start until the table has a row."""
    with tempfile.TemporaryDirectory() as folder:
        uri = Path(folder) / "workspace"
        command = [sys.executable, *job, "--workspace", str(uri), "--report", str(Path(folder) / "report")]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (uri / "images.lance").exists() or not Workspace(str(uri)).count():
            if process.poll() is not None:
                raise SystemExit(f"the job ended with {process.returncode} before it had a row: {' '.join(command)}")
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        process.send_signal(signal.SIGINT)
        process.wait()
    return seconds


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    print(machine())
    job = ["jobs/genbench_500shot.py", "--shots", "20"]
    first_row_seconds(job)  # reads the libraries and the indices of the data sets once, as a warm-up
    init, actor, first = [], [], []
    for _ in range(options.pairs):
        init.append(seconds_until_up(INIT + UP))
        actor.append(seconds_until_up(INIT + ACTOR + UP))
        first.append(first_row_seconds(job))
    show("ray.init alone", init, "s")
    show("ray.init and an actor that imports open_clip", actor, "s")
    show("job until first committed row", first, "s")
    show("first row ÷ that actor", [ours / least for ours, least in zip(first, actor, strict=True)])
    show("first row ÷ ray.init", [ours / theirs for ours, theirs in zip(first, init, strict=True)], "(goal: <= 1.7)")


if __name__ == "__main__":
    main()
