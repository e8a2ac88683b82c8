"""Rows of the table of `check.py`, the machine they are measured on, and the share of time that its GPU is busy."""

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

JUDGED_CARD = "H100"
"""Absolute floors hold for this card."""


@dataclass(frozen=True)
class Machine:
    """Where the figures are measured."""

    folder: Path
    """For everything that is written."""
    tiny: bool
    device: str
    name: str
    """Name of the GPU, or `cpu`."""


@dataclass(frozen=True)
class Row:
    """One figure and its floor."""

    what: str
    figure: float
    unit: str = ""
    least: float | None = None
    most: float | None = None
    on_any_card: bool = False
    """Whether the floor is a ratio that holds on any GPU."""
    always: bool = False
    """Whether the floor holds on tiny models and on a CPU too."""

    def verdict(self, machine: Machine) -> str:
        """`ok`, `MISSED`, or nothing where it is not judged."""
        judged = self.always or (not machine.tiny and (self.on_any_card or JUDGED_CARD in machine.name))
        if not judged or (self.least is None and self.most is None):
            return ""
        good = (self.least is None or self.figure >= self.least) and (self.most is None or self.figure <= self.most)
        return "ok" if good else "MISSED"

    def line(self, machine: Machine) -> str:
        """The row in markdown."""
        floor = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}" if self.most is not None else ""
        figure = f"{self.figure:,.0f}" if abs(self.figure) >= 100 else f"{self.figure:.3g}"
        return f"| {self.what} | {figure} | {self.unit} | {floor} | {self.verdict(machine)} |"


def seconds(action: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Median over the repeats, after one to warm up, each awaited."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        action()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


class Busy:
    """Context manager: the share of time in which a kernel ran on the GPU, by nvidia-smi, sampled five times per second."""

    share = float("nan")

    def __init__(self, device: str):
        self._device = device
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Busy":
        if self._device.startswith("cuda"):
            command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        samples = [float(line) for line in self._process.communicate()[0].split() if line.isdigit()]
        self.samples = samples
        self.share = statistics.mean(samples) / 100 if samples else float("nan")

    def between(self, first: float, last: float) -> float:
        """The share between two moments of `time.perf_counter`."""
        samples = getattr(self, "samples", [])
        part = samples[int((first - self._started) * 5) : int((last - self._started) * 5)]
        return statistics.mean(part) / 100 if part else float("nan")
