"""The folder of the shipped checkpoints, and the replacement of a folder in one move."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Folder of the shipped checkpoints: `clip`, `judge`, `generator` and `reference`."""


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill; it replaces `folder` if the block succeeds, and is deleted if not."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    for file in fresh.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors writes files that only their owner reads
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_half(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, floating ones as float16."""
    from safetensors.torch import save_file

    half = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous().clone() for k, v in tensors.items()
    }
    save_file(half, path, {"format": "pt"})


def num_bytes(folder: Path = CHECKPOINTS) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
