"""Generator families: one `PipelineAdapter` per kind of diffusers pipeline, one file per family, one row per adapter in `ADAPTERS`."""

from importlib import import_module
from typing import Any

from engine.models.generators.adapter import PipelineAdapter, ReferenceModels
from engine.models.generators.emu2 import Emu2
from engine.models.generators.flux import Flux, FluxKontext
from engine.models.generators.flux2 import Flux2Klein
from engine.models.generators.glide import Glide
from engine.models.generators.omnigen import OmniGen
from engine.models.generators.qwen import QwenImageEdit
from engine.models.generators.stable_diffusion import StableDiffusion, StableDiffusionXL
from engine.models.generators.stable_diffusion_3 import StableDiffusion3

__all__ = ["ADAPTERS", "PipelineAdapter", "ReferenceModels", "adapter_of", "pipeline_class"]

ADAPTERS: tuple[type[PipelineAdapter], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    FluxKontext,
    Flux2Klein,
    OmniGen,
    QwenImageEdit,
    Emu2,
    Glide,
)
"""Every supported pipeline class, once."""


def adapter_of(pipeline: str) -> type[PipelineAdapter]:
    """The adapter of a pipeline class, named as in `model_index.json`. Raises ValueError for a class that has none."""
    for adapter in ADAPTERS:
        if adapter.pipeline_name == pipeline:
            return adapter
    supported = ", ".join(adapter.pipeline_name for adapter in ADAPTERS)
    raise ValueError(f"pipeline class {pipeline!r} is not supported; use a checkpoint of {supported}")


def pipeline_class(pipeline: str) -> Any:
    """The Python class of this name, from diffusers or from this package. Raises ValueError as `adapter_of` does."""
    return getattr(import_module(adapter_of(pipeline).module), pipeline)
