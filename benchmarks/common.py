"""Helpers of the benchmarks: steady rate, medians, description of the machine."""

import platform
import statistics
from collections.abc import Sequence


def steady_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Rows per second between the first quarter and the end of (time, rows so far) pairs: without the start."""
    start = next(pair for pair in arrivals if pair[1] >= arrivals[-1][1] / 4)
    return (arrivals[-1][1] - start[1]) / (arrivals[-1][0] - start[0])


def machine() -> str:
    """Description of the machine."""
    import os

    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def show(name: str, values: Sequence[float], unit: str = "") -> float:
    """Prints median, minimum and maximum; returns the median."""
    middle = statistics.median(values)
    print(f"{name:48} median {middle:10.3f}  min {min(values):10.3f}  max {max(values):10.3f}  {unit}", flush=True)
    return middle
