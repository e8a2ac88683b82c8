"""Write images as webdataset shards: plain tar files of webp images, each with a label or a caption."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def encode_webp(image: np.ndarray) -> bytes:
    """One [S, S, 3] uint8 image as webp, quality 95."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "webp", quality=95, method=2)
    return buffer.getvalue()


def decode_webp(data: bytes) -> np.ndarray:
    """[S, S, 3] uint8 of what `encode_webp` wrote."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write_shard(path: Path, first: int, images: np.ndarray, extension: str, texts: Iterable[str]) -> None:
    """Write one tar: `sNNNNNNN.webp` and `sNNNNNNN.<extension>` a sample, numbered from `first`.

    The bytes depend on the samples alone: times, owners and modes are fixed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, (image, text) in enumerate(zip(images, texts, strict=True)):
            for suffix, data in (("webp", encode_webp(image)), (extension, text.encode())):
                entry = tarfile.TarInfo(f"s{first + i:07d}.{suffix}")
                entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
                tar.addfile(entry, io.BytesIO(data))


def split_evenly(total: int, most: int) -> list[range]:
    """Cut range(total) into consecutive ranges of at most `most`."""
    return [range(start, min(start + most, total)) for start in range(0, total, most)]
