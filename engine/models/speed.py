"""What makes a pipeline faster, by name. Which generator allows what stands in `registry.toml`.

`exact`: other layouts and fewer kernels, the same arithmetic up to rounding. `fast`: compiled besides, so the first batch
takes minutes. `lossy`: pixels that the model itself would not have drawn; of its levers `fp8` makes room rather than speed:
the denoiser's weights lie in 8 bits and are widened layer by layer, so they take half the memory of `bfloat16`. Prompt embeddings computed once, scaled dot
product attention, decoding a whole batch at once and a dtype of half the size are always on. Left out, though libraries
offer it: FirstBlockCache, whose decision is the mean of the batch, so that a sample would depend on its companions.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.models.registry import GeneratorSpec


def apply_levers(pipeline: Any, denoiser: Any, spec: "GeneratorSpec", device: str) -> None:
    """Turns on what `spec.speed` stands for, before the weights go to `device`.

    Layouts and compilation pay on GPUs only, so a processor is spared them.
    """
    # torch.compile cannot trace through the casts of fp8 (torch 2.15, diffusers 0.42.1)
    compiled = () if "fp8" in spec.levers.get("lossy", ()) else ("fast",)
    asked = {"exact": ("exact",), "fast": ("exact", "fast"), "lossy": ("exact", "lossy", *compiled)}[spec.speed]
    for speed in asked:
        for name in spec.levers.get(speed, ()):
            if speed == "lossy" or device.startswith("cuda"):
                LEVERS[name](pipeline, denoiser, spec)


def _channels_last(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    import torch

    for module in (denoiser, pipeline.vae):
        module.to(memory_format=torch.channels_last)


def _fused_qkv(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.fuse_qkv_projections()


def _compile(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.compile(mode="reduce-overhead", fullgraph=True)  # CUDA graphs: batches have one size


def _compile_blocks(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    denoiser.compile_repeated_blocks(fullgraph=True)


def _tiny_vae(pipeline: Any, denoiser: Any, spec: "GeneratorSpec") -> None:
    from diffusers import AutoencoderTiny

    tiny: Any = AutoencoderTiny.from_pretrained(
        spec.auxiliaries["tiny_vae"].source, dtype=pipeline.vae.dtype, **spec.auxiliaries["tiny_vae"].pin
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
    "tiny_vae": _tiny_vae,
    "taylorseer": _taylorseer,
    "fp8": _fp8,
}
"""Name in `registry.toml` → what it does to a loaded pipeline."""
