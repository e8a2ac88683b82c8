"""Tiny data sets and captioned pools as webdataset folders, whose images tell their class by colour alone."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray) -> bytes:
    """WebP bytes (quality 90) of pixels `[H, W, 3]` uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=90)
    return buffer.getvalue()


def class_image(class_index: int, number: int, size: int = 32) -> np.ndarray:
    """A slightly noisy image `[size, size, 3]` uint8 whose colour tells its class: black, red, green, yellow, blue …

    The same class and number give the same pixels. Eight colours exist, so classes 0 and 8 look alike.
    """
    random = np.random.default_rng([class_index, number])
    colour = 40 + 180 * (class_index >> np.arange(3) & 1)
    return np.clip(colour + random.normal(0, 4, (size, size, 3)), 0, 255).astype(np.uint8)


def write_shards(
    folder: Path, samples: Sequence[tuple[bytes, str | bytes]], suffix: str = "cls", shards: int = 1
) -> None:
    """Writes one split: `nshards.txt` and tars over which the samples (image bytes, label) are dealt in turn.

    `suffix` says what the label is: `cls` (class index), `txt` (caption) or `npy` (see `multi_hot`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nshards.txt").write_text(f"{shards}\n")
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number, (data, text) in list(enumerate(samples))[shard::shards]:
                for name, content in (
                    (f"s{number:07}.webp", data),
                    (f"s{number:07}.{suffix}", text.encode() if isinstance(text, str) else text),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def multi_hot(labels: Sequence[int]) -> bytes:
    """Bytes of a `.npy` file with one 0 or 1 per class, as multilabel shards hold it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(labels, np.float32))
    return buffer.getvalue()


def write_dataset(folder: Path, class_names: Sequence[str], train: int = 8, test: int = 4, shards: int = 2) -> Path:
    """Writes a webdataset folder with `train` and `test` images per class; returns the folder, which `load_dataset` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(class_names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\na drawing of {c}.\n")
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        samples = [
            (encode(class_image(label, first + number)), str(label))
            for number in range(count)
            for label in range(len(class_names))
        ]
        write_shards(folder / split, samples, shards=shards)
    return folder


def write_pool(folder: Path, class_names: Sequence[str], count: int = 40) -> Path:
    """Writes a captioned pool of `count` images whose captions name the classes in turn; returns the folder, for `--pool`."""
    captions = [
        (
            encode(class_image(number % len(class_names), 2000 + number)),
            f"a nice {class_names[number % len(class_names)]} {number // 3 % 3}",
        )
        for number in range(count)
    ]
    write_shards(folder / "train", captions, suffix="txt")
    return folder
