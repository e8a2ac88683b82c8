#!/usr/bin/env python3
"""Recall of copies of test images by kind, and false alarms on clean images, of the audit's search for leakage.

The threshold is fixed before anything is measured, by the nearest test image of training images that are not measured on (`--calibrate`
of them, at `FALSE_ALARMS`). Then it is applied to other clean training images and to planted copies of test images. A second row
has the threshold that an audit sets itself, from the test images alone.

python -m benchmarks.leakage
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.common import machine
from engine.catalog import load_dataset
from engine.catalog.corpus import read_images
from engine.evaluation import CopyFinder
from engine.evaluation.near_duplicates import SIDE, resized
from engine.export.leakage import FALSE_ALARMS, calibrate
from engine.images import decode_image


def jpeg(pixels: np.ndarray, quality: int = 50) -> np.ndarray:
    """The pixels after a JPEG file of a quality, chroma halved as by default."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def crop(pixels: np.ndarray, share: float, x: float, y: float) -> np.ndarray:
    """A crop of a share of each side, at a place from 0 to 1 along each axis, scaled up again (bicubic)."""
    size = share * SIDE
    left, top = x * (SIDE - size), y * (SIDE - size)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + size, top + size)))


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CHANGES: dict[str, Change] = {
    "as it is": lambda pixels, random: pixels,
    "JPEG q50": lambda pixels, random: jpeg(pixels),
    "brightness x1.3": lambda pixels, random: np.clip(pixels * 1.3, 0, 255).astype(np.uint8),
    "brightness x0.7": lambda pixels, random: (pixels * 0.7).astype(np.uint8),
    "flip": lambda pixels, random: pixels[:, ::-1],
    "crop 90 %, centre": lambda pixels, random: crop(pixels, 0.9, 0.5, 0.5),
    "crop 90 %, corner": lambda pixels, random: crop(pixels, 0.9, *random.integers(0, 2, 2)),
    "crop 90 %, anywhere": lambda pixels, random: crop(pixels, 0.9, *random.random(2)),
    "crop 80 %, anywhere": lambda pixels, random: crop(pixels, 0.8, *random.random(2)),
    "crop 70 %, anywhere": lambda pixels, random: crop(pixels, 0.7, *random.random(2)),
    "crop 90 % + flip + JPEG q50": lambda pixels, random: jpeg(crop(pixels, 0.9, *random.random(2))[:, ::-1]),
    "rotation by 5 degrees": lambda pixels, random: np.asarray(
        Image.fromarray(pixels).rotate(5, Image.Resampling.BICUBIC, fillcolor=tuple(pixels[0, 0].tolist()))
    ),
}


def pixels_of(datasets: list[str], split: str) -> np.ndarray:
    """`[N, 32, 32, 3]` uint8 of a split of data sets."""
    found = []
    for name in datasets:
        dataset = load_dataset(name)
        keys = list(dataset.index(split).keys)
        found += [resized(decode_image(image)) for image in read_images(dataset.location, keys)]
    return np.stack(found)


def main() -> None:
    """Prints the thresholds, the false alarms and one row per kind of copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["mini-common", "mini-fine", "mini-rare", "mini-novel"])
    parser.add_argument("--calibrate", type=int, default=3_000, help="clean training images that fix the threshold")
    parser.add_argument("--clean", type=int, default=6_000, help="other clean training images, measured on")
    parser.add_argument("--planted", type=int, default=500, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    random = np.random.default_rng(flags.seed)
    test, train = pixels_of(flags.datasets, "test"), pixels_of(flags.datasets, "train")
    order = random.permutation(len(train))[: flags.calibrate + flags.clean]
    print(machine())
    print(f"{len(test):,} test images, {len(train):,} training images", flush=True)
    finder = CopyFinder(test)
    held_out = finder.find(train[order[: flags.calibrate]]).score
    thresholds = {
        "held out": float(np.quantile(held_out, 1 - FALSE_ALARMS)),
        "test alone": calibrate(finder, test, random),
    }
    print(f"thresholds: {', '.join(f'{name} {value:.4f}' for name, value in thresholds.items())}", flush=True)
    started = time.perf_counter()
    clean = finder.find(train[order[flags.calibrate :]]).score
    rate = len(clean) / (time.perf_counter() - started)
    alarms = [f"{(clean >= value).sum():,} ({(clean >= value).mean():.3%})" for value in thresholds.values()]
    print(f"clean images flagged: {' and '.join(alarms)} of {len(clean):,}; {rate:.0f} images/s", flush=True)
    print(
        "\n| kind of copy | recall, held out | recall, test alone | right test image | lowest score |\n|---|---|---|---|---|"
    )
    chosen = random.permutation(len(test))[: flags.planted]
    for name, change in CHANGES.items():
        found = finder.find(np.stack([change(test[one], random) for one in chosen]))
        recalls = " | ".join(f"{(found.score >= value).mean():.1%}" for value in thresholds.values())
        print(f"| {name} | {recalls} | {(found.index == chosen).mean():.1%} | {found.score.min():.3f} |", flush=True)


if __name__ == "__main__":
    main()
