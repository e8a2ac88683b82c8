#!/usr/bin/env python3
"""Bytes, quality and time per image of every stored format, and the price of a million images in storage.

The images are the photographs that scikit-learn and matplotlib ship, cut to a square and scaled to `--size` pixels.

python -m benchmarks.image_formats
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import sklearn
from PIL import Image

from benchmarks.common import machine
from engine.costs import PriceBook
from engine.images import ImageFormat, decode_image

FORMATS = (
    ImageFormat("png"),
    ImageFormat("webp", 100),
    ImageFormat("webp", 95),
    ImageFormat("webp", 90),
    ImageFormat("webp", 80),
    ImageFormat("jpeg", 95),
    ImageFormat("jpeg", 90),
    ImageFormat("jpeg", 80),
)
REPEATS = 5


def photographs(size: int) -> list[np.ndarray]:
    """The photographs, `[size, size, 3]` uint8 each."""
    files = (
        *sorted((Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg")),
        *sorted((Path(matplotlib.__file__).parent / "mpl-data" / "sample_data").glob("*.jpg")),
    )
    found = []
    for file in files:
        image = Image.open(file).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        found.append(np.asarray(image.crop(box).resize((size, size), Image.Resampling.LANCZOS)))
        print(f"{file.name}: {image.width}x{image.height}")
    return found


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels; infinite for equal images."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def milliseconds(action: Callable[..., object], *arguments: object) -> float:
    """The fastest of `REPEATS` calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action(*arguments)
        times.append(time.perf_counter() - started)
    return min(times) * 1e3


def main() -> None:
    """Prints one line per format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--storage", default="aws-s3-standard", help="place in the price book")
    options = parser.parse_args()
    print(machine())
    price = PriceBook.load().storage[options.storage]
    print(f"{price.name}: {price.usd_per_gb_month} USD per GB-month ({price.source}; {price.date})")
    pictures = photographs(options.size)
    print(
        f"{'format':10} {'kB':>6} {'kB of each':>18} {'PSNR':>6} {'encode ms':>10} {'decode ms':>10} {'GB/M':>6} {'USD/month':>10}"
    )
    for image_format in FORMATS:
        encoded = [image_format.encode(one) for one in pictures]
        sizes = [len(data) / 1e3 for data in encoded]
        mean = float(np.mean(sizes))  # kB per image is GB per million images
        noise = np.mean([psnr(one, decode_image(data)) for one, data in zip(pictures, encoded, strict=True)])
        encode = np.mean([milliseconds(image_format.encode, one) for one in pictures])
        decode = np.mean([milliseconds(decode_image, data) for data in encoded])
        each = " ".join(f"{size:.0f}" for size in sizes)
        usd = mean * price.usd_per_gb_month
        print(
            f"{image_format!s:10} {mean:6.0f} {each:>18} {noise:6.1f} {encode:10.1f} {decode:10.1f} {mean:6.0f} {usd:10.2f}"
        )


if __name__ == "__main__":
    main()
