"""Which arithmetic a model computes in: the one asked for, or what its device does in hardware."""

from engine.models.weights import BYTES
from engine.names import unknown_name


def check_dtype(dtype: str) -> str:
    """`dtype` itself. Raises ValueError, one sentence, unless it is `float32`, `float16` or `bfloat16`."""
    if dtype not in BYTES:
        raise ValueError(unknown_name("dtype", dtype, list(BYTES)))
    return dtype


def native_dtype(wanted: str, device: str) -> str:
    """`wanted` (`float32`, `float16` or `bfloat16`) if the device computes with it, else `float32`.

    A GPU takes all three. A processor without bfloat16 instructions emulates it, some ten times slower than float32,
    and float16 on a processor lacks operators.
    """
    import torch

    if device.startswith("cuda") or wanted == "float32":
        return wanted
    can = torch.cpu.get_capabilities()
    native = any(can.get(feature, False) for feature in ("amx_bf16", "avx512_bf16", "bf16"))
    return "bfloat16" if wanted == "bfloat16" and native else "float32"


def encoder_dtype(device: str) -> str:
    """Arithmetic of an encoder that was asked for none: `float16` on a GPU, `float32` on a processor."""
    return "float16" if device.startswith("cuda") else "float32"
