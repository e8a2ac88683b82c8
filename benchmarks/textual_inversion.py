"""Tokens of many categories in one batch ÷ one category after another, in processor seconds at equal steps and samples.

`python -m benchmarks.textual_inversion`. One after another is measured on fewer categories, since its cost is linear in them.
Three ways: one category per pass with new noise at each step (as diffusers' script does it; with distilled guidance that takes a
second pass), one per pass with the bank of prepared samples, and all in one batch with the bank (what `imagefoundry inject` does).
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import tyro

from benchmarks.common import machine
from engine.models import load_generator
from engine.models.generator import DiffusionGenerator
from engine.models.inversion import InversionConfig, preset
from engine.models.inversion.fit import Category, fit_tokens


@dataclass(frozen=True)
class Config:
    """Sizes of the measurement."""

    generator: str = "mini"
    """Generator whose tokens are fitted."""
    categories: int = 24
    """Categories of the batch."""
    alone: int = 3
    """Categories that are fitted one after another."""
    steps: int = 80
    """Steps per category."""
    samples: int = 2
    """Noisy images of each category per step."""
    repeats: int = 3
    """Each way is measured so often, in turns; the least is printed, since neighbours only add."""
    device: str = "cpu"
    """`cpu` (one thread) or `cuda`, whose seconds are those of the clock."""


def categories(num: int, size: int) -> list[Category]:
    """Categories of five random images each."""
    rng = np.random.default_rng(0)
    return [
        Category(
            f"<|d {number}|>",
            list(rng.integers(0, 256, (5, size, size, 3), np.uint8)),
            ("a photo of a {c}.", "a picture of the {c}.", "a close-up of a {c}."),
            number,
        )
        for number in range(num)
    ]


def seconds_per_category(generator: DiffusionGenerator, config: InversionConfig, num: int) -> float:
    """Processor seconds (on a GPU, seconds) per category."""
    import torch

    made = categories(num, generator.spec.height)
    clock = time.process_time if generator.device == "cpu" else time.perf_counter
    started = clock()
    fit_tokens(generator, made, config)
    if generator.device != "cpu":
        torch.cuda.synchronize()
    return (clock() - started) / num


def main(config: Config) -> None:
    """Prints seconds per category of each way, and the ratios."""
    import torch

    torch.set_num_threads(1)
    dtype = "float32" if config.device == "cpu" else "bfloat16"
    generator = load_generator(config.generator, device=config.device, dtype=dtype)
    together = preset(
        "mini", steps=config.steps, samples_per_step=config.samples, categories_per_batch=config.categories
    )
    alone = replace(together, categories_per_batch=1)
    ways = {
        "one after another, new noise at each step": (replace(alone, bank=0), config.alone),
        "one after another, bank": (alone, config.alone),
        f"{config.categories} in one batch, bank": (together, config.categories),
    }
    seconds_per_category(generator, replace(alone, steps=2), 1)  # the first pass allocates
    found: dict[str, float] = {}
    for _ in range(config.repeats):
        for name, (settings, num) in ways.items():
            found[name] = min(found.get(name, np.inf), seconds_per_category(generator, settings, num))
    print(f"{machine()}, {config.device}; {config.generator}, {config.steps} steps x {config.samples} samples\n")
    print("| way | processor seconds per category | ratio |\n|---|---|---|")
    first = next(iter(found.values()))
    for name, value in found.items():
        print(f"| {name} | {value:.2f} | {first / value:.1f} |")


if __name__ == "__main__":
    main(tyro.cli(Config))
