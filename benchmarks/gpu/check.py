#!/usr/bin/env python3
"""Whether this project keeps the GPU of this machine busy: one table, and exit code 1 where a floor is missed.

    make gpu-check
    python -m benchmarks.gpu.check --only encode embed --report table.md
    python -m benchmarks.gpu.check --tiny        # all of it on tiny models, on any machine; speeds are shown, not judged

Models have their real size and random weights, so nothing is downloaded; the miniature world's are real. Floors are ratios to the
bare loop of the same model on the same card, measured beside it, or the figures of an H100 80 GB, and are not judged on other cards.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu import check_embedding, check_generation, check_retriever
from benchmarks.gpu.rows import Machine, Row
from engine.dataflow.cluster import connected_cluster


def miniature(machine: Machine) -> Iterator[Row]:
    """GenBench on one of the miniature data sets, as a user starts it."""
    for speed in ("fast",) if machine.tiny else ("exact", "fast"):
        folder = machine.folder / f"mini-{speed}"
        shots = ["1"] if machine.tiny else ["1", "5"]
        command = [sys.executable, "-m", "engine", "genbench", "--datasets", "mini-rare", "--shots", *shots]
        command += ["--speed", speed, "--workspace", str(folder / "workspace"), "--report", str(folder / "report")]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        yield Row(f"miniature job, {speed}: exit code", done.returncode, "", most=0, always=True)
        yield Row(f"miniature job, {speed}", seconds, "s")


SECTIONS: dict[str, Callable[[Machine], Iterator[Row]]] = {
    "encode": check_embedding.encode,
    "embed": check_embedding.embed,
    "mining": check_retriever.mining,
    "head": check_retriever.head,
    "fill": check_generation.fill,
    "generate": check_generation.generate,
    "miniature": miniature,
}


def main(arguments: list[str] | None = None) -> int:
    """Prints a line per figure as it comes; returns 1 if a floor is missed or a section fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--report", type=Path, help="file for the table (markdown)")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        sys.exit("no GPU on this machine; with --tiny everything runs on the CPU")
    name = "cpu" if options.tiny else torch.cuda.get_device_name()
    lines = [f"{name}, torch {torch.__version__}", "", "| what | figure | unit | floor | |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    missed = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, connected_cluster():
        machine = Machine(Path(folder), options.tiny, "cpu" if options.tiny else "cuda", name)
        for section in options.only:
            try:
                for row in SECTIONS[section](machine):
                    missed += row.verdict(machine) == "MISSED"
                    lines.append(row.line(machine))
                    print(lines[-1], flush=True)
            except Exception as error:  # the other sections are still worth their figures
                missed += 1
                lines.append(f"| {section} | {type(error).__name__}: {str(error).splitlines()[0][:200]} | | | FAILED |")
                print(lines[-1], flush=True)
            print(f"<!-- {section}: {time.perf_counter() - began:.0f} s -->", flush=True)
    if options.report:
        options.report.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"\n{missed} of {len(lines) - 4} missed or failed, {time.perf_counter() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
