"""The arithmetic of a model: the requested dtype, or one that its device computes in hardware."""

from engine.models.weights import BYTES
from engine.names import unknown_name


def check_dtype(dtype: str) -> str:
    """`dtype` unchanged. Raises ValueError unless it is `float32`, `float16` or `bfloat16`."""
    if dtype not in BYTES:
        raise ValueError(unknown_name("dtype", dtype, list(BYTES)))
    return dtype


def native_dtype(wanted: str, device: str) -> str:
    """`wanted` (`float32`, `float16` or `bfloat16`) if the device computes with it, else `float32`.

    A GPU computes with all three. A CPU without bfloat16 instructions emulates it, about ten times slower than float32, and
    CPUs lack operators for float16.
    """
    import torch

    if device.startswith("cuda") or wanted == "float32":
        return wanted
    can = torch.cpu.get_capabilities()
    native = any(can.get(feature, False) for feature in ("amx_bf16", "avx512_bf16", "bf16"))
    return "bfloat16" if wanted == "bfloat16" and native else "float32"


def encoder_dtype(device: str) -> str:
    """Default arithmetic of an encoder: `float16` on a GPU, `float32` on a CPU."""
    return "float16" if device.startswith("cuda") else "float32"
