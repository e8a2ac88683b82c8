#!/usr/bin/env python3
"""Runs the benchmarks that compare with a peer in the same run, and returns 1 where the median ratio misses its floor.

python -m benchmarks.floors                     # all, half an hour on two quiet cores
python -m benchmarks.floors generator_overhead  # those whose name begins so
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.common import machine

LINE = re.compile(
    r"^(?P<name>.*?)\s+median\s+(?P<median>[\d.]+)\s+min.*?(?:\(goal: (?P<sign><=|>=) (?P<goal>[\d.]+)\))?\s*$"
)
"""A line of `benchmarks.common.show`, with the goal that some benchmarks print themselves."""


@dataclass(frozen=True)
class Floor:
    """A benchmark, and the figures of it that have a floor."""

    command: str
    """Module of `benchmarks` and its arguments."""
    name: str = ""
    """Regular expression that finds the names of these figures; those with a goal in their line if empty."""
    least: float = 0.0
    """The floor of the figures that `name` finds."""


FLOORS = (
    Floor("generator_overhead"),
    Floor("metric_time", r"probe \(ours\) ÷ CLER", 50.0),
    Floor("probe_sweep", r"seconds of scikit-learn ÷ ours", 20.0),
    Floor("train_retriever", r"Ray Train ÷ bare loop", 0.95),
    Floor("first_row"),
    Floor("engine_overhead"),
    Floor("engine_overhead --row-ms 50"),
    Floor("serve added"),
    Floor("serve throughput"),
)
"""On a GPU: `make gpu-check`."""


@dataclass(frozen=True)
class Figure:
    """A median ratio beside its floor."""

    name: str
    median: float
    sign: str
    goal: float

    @property
    def holds(self) -> bool:
        """Whether the floor is kept."""
        return self.median >= self.goal if self.sign == ">=" else self.median <= self.goal


def figures(floor: Floor, lines: Iterable[str]) -> list[Figure]:
    """The figures with a floor in what a benchmark printed."""
    found = []
    for line in lines:
        match = LINE.match(line)
        if match is None:
            continue
        name, median = match["name"], float(match["median"])
        if floor.name and re.search(floor.name, name):
            found.append(Figure(name, median, ">=", floor.least))
        elif not floor.name and match["goal"]:
            found.append(Figure(name, median, match["sign"], float(match["goal"])))
    return found


def measure(floor: Floor) -> tuple[list[Figure], str]:
    """The figures of one benchmark, and its last line if it failed or printed none of them."""
    command = [sys.executable, "-m", *f"benchmarks.{floor.command}".split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    found = figures(floor, done.stdout.splitlines())
    if done.returncode or not found:
        last = done.stdout.strip().splitlines()[-1:] or ["it printed nothing"]
        return found, f"exit code {done.returncode}: {last[0]}"
    return found, ""


def main(arguments: list[str] | None = None) -> int:
    """Prints one row per figure as it comes; returns 1 if a floor is missed or a benchmark fails, 2 for an unknown name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of the benchmarks to run; all if none is given")
    names = parser.parse_args(arguments).names
    chosen = [one for one in FLOORS if not names or any(one.command.startswith(name) for name in names)]
    if not chosen:
        print(
            f"error: no benchmark begins with {' or '.join(names)}; give one of {', '.join(one.command for one in FLOORS)}",
            file=sys.stderr,
        )
        return 2
    print(f"{machine()}\n\n| benchmark | figure | median | floor | |\n|---|---|---|---|---|", flush=True)
    code = 0
    for floor in chosen:
        found, failure = measure(floor)
        for one in found:
            print(
                f"| {floor.command} | {one.name} | {one.median:g} | {one.sign} {one.goal:g} | {'kept' if one.holds else '**missed**'} |",
                flush=True,
            )
        if failure:
            print(f"| {floor.command} | | | | **failed**, {failure} |", flush=True)
        if failure or not all(one.holds for one in found):
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
