"""Weights on disk: their files, hash and parameters, and the memory that they need."""

from hashlib import blake2b
from pathlib import Path

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes per parameter."""


def check_weights(folder: Path) -> list[Path]:
    """The folder's safetensors files.

    Raises:
        ValueError: it has no weights, or pickled weights instead of safetensors.
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
    """Parameters in the folder's safetensors files, read from their headers."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in check_weights(folder):
        with safe_open(path, framework="np") as file:
            total += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (not a dict)
    return total


def device_memory(device: str) -> int:
    """Free bytes of a GPU; for the CPU, the total memory of the machine, since its free part changes constantly."""
    import os

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(name: str, needed: float, dtype: str, device: str) -> None:
    """Checks before loading that weights of `needed` bytes fit; the memory of sampling is not counted.

    Raises:
        ValueError: the device has less memory.
    """
    available = device_memory(device)
    if needed > available:
        raise ValueError(
            f"generator {name} needs {needed / 1e9:.1f} GB for its weights in {dtype}, and {device} has {available / 1e9:.1f} GB; "
            "use a smaller generator or a larger device"
        )
