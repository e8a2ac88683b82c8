"""Weights on disk: which files count, what they hash to, how much memory they take, and whether that is there."""

from hashlib import blake2b
from pathlib import Path

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a parameter."""


def check_weights(folder: Path) -> list[Path]:
    """The folder's safetensors files.

    Raises:
        ValueError: it has none, or has pickled weights where safetensors should be.
    """
    weights = sorted(folder.rglob("*.safetensors"))
    if weights:
        return weights
    pickles = sorted(path for suffix in ("bin", "pt", "pth", "ckpt", "pkl") for path in folder.rglob(f"*.{suffix}"))
    if pickles:
        raise ValueError(
            f"{folder} holds pickled weights ({pickles[0].name}), which can run code when loaded; convert them to safetensors"
        )
    raise ValueError(f"{folder} has no weights (*.safetensors); download or save the checkpoint again")


def folder_revision(folder: Path) -> str:
    """Hash of a folder's configs and weights, 16 hexadecimal digits. Raises ValueError as `check_weights` does."""
    digest = blake2b(digest_size=8)
    for path in [*sorted(folder.rglob("*.json")), *check_weights(folder)]:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def count_parameters(folder: Path) -> int:
    """Numbers in the folder's safetensors files, read from their headers."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in check_weights(folder):
        with safe_open(path, framework="np") as file:
            total += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (not a dict)
    return total


def device_memory(device: str) -> int:
    """Bytes free on a GPU; on a processor, all the memory of the machine (its free part changes from moment to moment)."""
    import os

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(name: str, needed: float, dtype: str, device: str) -> None:
    """Refuses weights of so many bytes that cannot fit, before they are loaded; what sampling takes comes on top and is not counted.

    Raises:
        ValueError: says what the model needs and what there is.
    """
    there = device_memory(device)
    if needed > there:
        raise ValueError(
            f"generator {name} needs {needed / 1e9:.1f} GB for its weights in {dtype}, and {device} has {there / 1e9:.1f} GB; "
            "take a smaller generator or a larger device"
        )
