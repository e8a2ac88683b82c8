"""`load_generator`: a generator's pipeline from its weights, ready to generate."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from engine.gc_pause import gc_paused
from engine.models.generator import DiffusionGenerator
from engine.models.generators import adapter_of, pipeline_class
from engine.models.loading_errors import loading_errors
from engine.models.precision import check_dtype, native_dtype
from engine.models.resolve import generator_spec
from engine.models.spec import GeneratorSpec
from engine.models.speed import apply_levers, check_compiler
from engine.models.weights import check_memory, check_weights

if TYPE_CHECKING:
    import torch


@gc_paused()
def load_generator(
    generator: str | GeneratorSpec, *, device: str = "cpu", batch_size: int | None = None, dtype: str | None = None
) -> DiffusionGenerator:
    """Loads a generator.

    Args:
        generator: name (`mini`, …), diffusers folder, or spec.
        device: `cpu`, `cuda`, `cuda:1`, …
        batch_size: images per pipeline call; None for the spec's number.
        dtype: `float32`, `float16` or `bfloat16`; None for the spec's where the device computes with it, else float32.

    Raises:
        ValueError: unknown name; unsupported dtype; weights that are pickled, missing, do not fit the pipeline or exceed the
            device's memory; a speed that compiles where nothing can.
    """
    import torch
    from diffusers.utils import logging

    spec = generator_spec(generator) if isinstance(generator, str) else generator
    adapter = adapter_of(spec.pipeline)
    adapter.check_available(spec.name, spec.is_local)
    dtype = native_dtype(spec.dtype, device) if dtype is None else check_dtype(dtype)
    if dtype not in adapter.dtypes:
        raise ValueError(f"generator {spec.name} does not support {dtype}; choose from: {', '.join(adapter.dtypes)}")
    if spec.is_local:
        check_weights(Path(spec.source))
    check_compiler(spec, device)
    check_memory(spec.name, spec.weights_bytes(dtype), dtype, device)
    logging.disable_progress_bar()
    with loading_errors("generator", spec.name, spec.gated):
        pipeline = _load_pipeline(spec, getattr(torch, dtype))
    apply_levers(pipeline, getattr(pipeline, adapter.denoiser_name), spec, device)
    pipeline.to(device)
    if hasattr(pipeline, "vae"):
        _encode_to_the_mode(pipeline.vae)
    if hasattr(pipeline, "watermark"):  # otherwise pixels depend on whether a watermark package is installed
        pipeline.watermark = None
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionGenerator(spec, pipeline, device, dtype, batch_size)


def _load_pipeline(spec: GeneratorSpec, dtype: "torch.dtype") -> Any:
    where: dict[str, Any] = {"revision": None if spec.is_local else spec.revision, "local_files_only": spec.is_local}
    more: dict[str, Any] = {"variant": spec.variant or None}
    if "unet" in spec.auxiliaries:
        more["unet"] = _load_unet(spec, where).to(dtype)
    pipeline = pipeline_class(spec.pipeline).from_pretrained(
        spec.source, dtype=dtype, use_safetensors=True, **where, **more
    )
    if spec.scheduler:
        import diffusers

        scheduler = getattr(diffusers, spec.scheduler)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **spec.scheduler_options)
    return pipeline


def _load_unet(spec: GeneratorSpec, where: Mapping[str, Any]) -> Any:
    """The auxiliary UNet of one safetensors file, with the configuration of the source's own UNet."""
    from diffusers import UNet2DConditionModel
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    other = spec.auxiliaries["unet"]
    path = (
        str(Path(other.source) / other.weights)
        if other.is_local
        else hf_hub_download(other.source, other.weights, revision=other.revision)
    )
    config = UNet2DConditionModel.load_config(spec.source, subfolder="unet", **where)
    unet: Any = UNet2DConditionModel.from_config(config)
    unet.load_state_dict(load_file(path))
    return unet


def _encode_to_the_mode(vae: Any) -> None:
    """Makes the VAE encode references to the mode of their posterior, since some pipelines sample it without a seed.

    A tiny VAE has no posterior; its latents take the place of the mode.
    """
    encode = vae.encode

    def encode_without_noise(*arguments: Any, **named: Any) -> Any:
        found = encode(*arguments, **named)
        output = found[0] if isinstance(found, tuple) else found
        if hasattr(output, "latents"):
            output.latent_dist = SimpleNamespace(mode=lambda: output.latents)
        if hasattr(output, "latent_dist"):
            posterior = output.latent_dist
            posterior.sample = lambda generator=None: posterior.mode()
        return found

    vae.encode = encode_without_noise
