"""Helpers of the benchmarks: steady rate, processor seconds, medians, description of the machine."""

import platform
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass


def steady_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Rows per second between the first quarter and the end of (time, rows so far) pairs: without the start."""
    start = next(pair for pair in arrivals if pair[1] >= arrivals[-1][1] / 4)
    return (arrivals[-1][1] - start[1]) / (arrivals[-1][0] - start[0])


@dataclass(frozen=True)
class Speed:
    """Speed of one measurement, without its start."""

    per_second: float
    """Rows per second of wall time."""
    cpu_seconds: float
    """Processor seconds per row, of all processes; other programs on the machine hardly change them."""

    @classmethod
    def of(cls, arrivals: Sequence[tuple[float, int]], clock: "TreeClock") -> "Speed":
        """The speed of (monotonic time, rows so far) pairs, from the first quarter to the end.

        Raises:
            ValueError: all rows arrived at once.
        """
        start, end = next(pair for pair in arrivals if pair[1] >= arrivals[-1][1] / 4), arrivals[-1]
        if start[1] == end[1]:
            raise ValueError(f"all {end[1]} rows arrived at once, so there is no steady part; measure more rows")
        return cls(steady_rate(arrivals), (clock.at(end[0]) - clock.at(start[0])) / (end[1] - start[1]))


class TreeClock:
    """Processor seconds of this process and all below it, sampled twice a second; a context manager."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, float], float] = {}
        self.samples: list[tuple[float, float]] = []
        """(Monotonic time, processor seconds so far)."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "TreeClock":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def at(self, moment: float) -> float:
        """Processor seconds that were used until a moment of `time.monotonic`."""
        import numpy as np

        times, used = zip(*self.samples, strict=True)
        return float(np.interp(moment, times, used))

    def _sample(self) -> None:
        import psutil

        root = psutil.Process()
        while True:
            is_last = self._is_over.wait(0 if not self.samples else 0.5)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.Error):  # a process that has just ended keeps its last sample
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
            self.samples.append((time.monotonic(), sum(self._used.values())))
            if is_last:
                return


def machine() -> str:
    """Description of the machine."""
    import os

    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def show(name: str, values: Sequence[float], unit: str = "") -> float:
    """Prints median, minimum and maximum; returns the median."""
    middle = statistics.median(values)
    print(f"{name:48} median {middle:10.3f}  min {min(values):10.3f}  max {max(values):10.3f}  {unit}", flush=True)
    return middle
