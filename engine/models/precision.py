"""Which arithmetic a device does in hardware: what it would only emulate runs in float32 instead."""


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
