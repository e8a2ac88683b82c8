"""What the benchmarks share: a maker without a model, a steady rate, medians."""

import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.recipe import Recipe
from engine.sources import Generates, Made


@dataclass(frozen=True)
class FlatPlan:
    """`num` flat pictures."""

    num: int
    first: int = 0
    """Seed of the first, so that another run has other images to make."""

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Recipe:
        return Recipe(
            source="generative",
            dataset="flat",
            class_index=0,
            class_name="colour",
            prompt="flat",
            generator="flat",
            seed=self.first + index,
        )


@dataclass
class FlatMaker(Generates):
    """Paints 32x32 pictures of one colour, taking `seconds_per_row` of waiting for each."""

    seconds_per_row: float = 0.0
    rows_per_call: int = 64
    gpus_per_actor: float = 0.25

    def load(self, device: str) -> None:
        """Nothing to load."""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """One picture a recipe."""
        import torch

        time.sleep(self.seconds_per_row * len(recipes))
        return [Made(torch.full((3, 32, 32), recipe.seed % 256, dtype=torch.uint8)) for recipe in recipes]


def steady_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Rows per second between the first quarter and the end of (time, rows so far) pairs: without the start."""
    start = next(pair for pair in arrivals if pair[1] >= arrivals[-1][1] / 4)
    return (arrivals[-1][1] - start[1]) / (arrivals[-1][0] - start[0])


def machine() -> str:
    """The machine, in words."""
    import os

    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def show(name: str, values: Sequence[float], unit: str = "") -> float:
    """Prints median, least and most; returns the median."""
    middle = statistics.median(values)
    print(f"{name:48} median {middle:10.3f}  min {min(values):10.3f}  max {max(values):10.3f}  {unit}", flush=True)
    return middle
