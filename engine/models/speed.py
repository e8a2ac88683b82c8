"""Optimizations of a loaded pipeline, by name; a generator's entry in `registry.toml` lists those that it supports.

`exact`: fewer kernels, with the same arithmetic up to rounding. `fast`: compiled, with another memory layout, so the first batch
takes a minute or two; what was compiled is kept in the cache folder for the next process. The layout alone does not pay:
channels-last made steps of SD 2.1 18 % longer on an H100, and compiled 27 % shorter (benchmarks/results/2026-11-27-gpu.md). `lossy`:
images that differ from the model's own. Its lever `fp8` saves memory, not time: the denoiser's weights are stored in 8 bits,
half the bytes of `bfloat16`, and widened layer by layer. Always on: cached prompt embeddings, scaled dot product attention,
decoding of whole batches, and half precision. FirstBlockCache is left out, since it decides by the mean of a batch, so that an
image would depend on the rest of its batch.
"""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.cache import cache_folder

if TYPE_CHECKING:
    from engine.models.spec import GeneratorSpec


COMPILING = ("compile", "compile_blocks", "compile_vae")
"""Levers that compile, which needs triton and a C compiler."""


def active_levers(spec: "GeneratorSpec", device: str) -> list[tuple[str, str]]:
    """(Speed, lever) of the levers that `spec.speed` turns on, in their order.

    Memory layouts and compilation speed up GPUs only, so they are skipped on a CPU.
    """
    # torch.compile cannot trace through the casts of fp8 (torch 2.15, diffusers 0.42.1)
    compiled = () if "fp8" in spec.levers.get("lossy", ()) else ("fast",)
    asked = {"exact": ("exact",), "fast": ("exact", "fast"), "lossy": ("exact", "lossy", *compiled)}[spec.speed]
    return [
        (speed, name)
        for speed in asked
        if speed == "lossy" or device.startswith("cuda")
        for name in spec.levers.get(speed, ())
    ]


def check_compiler(spec: "GeneratorSpec", device: str) -> None:
    """Raises ValueError if `spec.speed` compiles and this machine cannot, before weights are loaded and minutes are lost."""
    if not any(name in COMPILING for _, name in active_levers(spec, device)):
        return
    compilers = [os.environ["CC"].split()[0]] if os.environ.get("CC", "").strip() else ["gcc", "clang"]
    missing = "" if find_spec("triton") else "the package triton"
    if not any(shutil.which(name) for name in compilers):
        missing += f"{' or ' if missing else ''}a C compiler ({' or '.join(compilers)})"
    if missing:
        raise ValueError(
            f"generator {spec.name} compiles itself at --speed {spec.speed}, and this machine is without {missing}; install it "
            "there, or use --speed exact"
        )


def apply_levers(pipeline: Any, denoiser: Any, spec: "GeneratorSpec", device: str) -> None:
    """Turns on `active_levers`, before the weights go to `device`. What is compiled is kept in the cache folder."""
    if device.startswith("cuda"):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    for _, name in active_levers(spec, device):
        LEVERS[name](pipeline, denoiser, spec)


def _channels_last(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    import torch

    denoiser.to(memory_format=torch.channels_last)


def _fused_qkv(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.fuse_qkv_projections()


def _compile(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.compile(mode="reduce-overhead", fullgraph=True)  # CUDA graphs: batches have one size


def _compile_vae(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    import torch

    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.vae.decoder.compile(fullgraph=True)


def _compile_blocks(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.compile_repeated_blocks(fullgraph=True)


def _tiny_vae(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    from diffusers import AutoencoderTiny

    tiny: Any = AutoencoderTiny.from_pretrained(
        spec.auxiliaries["tiny_vae"].source,
        dtype=pipeline.vae.dtype,
        **spec.auxiliaries["tiny_vae"].from_pretrained_arguments,
    )
    pipeline.vae = tiny.to(pipeline.vae.device)


def _taylorseer(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    from diffusers import TaylorSeerCacheConfig

    denoiser.enable_cache(TaylorSeerCacheConfig(taylor_factors_dtype=denoiser.dtype))


def _fp8(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    import torch

    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=denoiser.dtype)


LEVERS: dict[str, Callable[[Any, Any, "GeneratorSpec"], None]] = {
    "channels_last": _channels_last,
    "fused_qkv": _fused_qkv,
    "compile": _compile,
    "compile_blocks": _compile_blocks,
    "compile_vae": _compile_vae,
    "tiny_vae": _tiny_vae,
    "taylorseer": _taylorseer,
    "fp8": _fp8,
}
"""Name in `registry.toml` → function that changes a loaded pipeline."""
