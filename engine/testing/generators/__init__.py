"""Tiny random twins of the real generators, one file per family: the same pipeline classes in the same file layout, with small
random weights that make every input visible in the pixels.

`save(name, folder)` writes the twin of a registry entry; the production path then loads it as that entry with other sources:

    saved = save("sd21", folder)
    generator = load_generator(generator_spec("sd21", **saved))
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from engine.models import GeneratorSpec, generator_spec
from engine.testing.generators.emu2 import save_emu2
from engine.testing.generators.flux import save_flux
from engine.testing.generators.flux2 import save_flux2_klein
from engine.testing.generators.glide import save_glide
from engine.testing.generators.omnigen import save_omnigen
from engine.testing.generators.qwen import save_qwen_image_edit
from engine.testing.generators.stable_diffusion import save_stable_diffusion, save_stable_diffusion_xl
from engine.testing.generators.stable_diffusion_3 import save_stable_diffusion_3

__all__ = ["SAVERS", "Saved", "save"]


class Saved(TypedDict):
    """Arguments of `generator_spec` that load a twin as its entry."""

    source: str
    """Folder of the pipeline."""
    auxiliaries: dict[str, str]
    """Purpose → folder of the model."""


SAVERS: dict[str, Callable[[Path, GeneratorSpec], dict[str, str]]] = {
    "StableDiffusionPipeline": save_stable_diffusion,
    "StableDiffusionXLPipeline": save_stable_diffusion_xl,
    "StableDiffusion3Pipeline": save_stable_diffusion_3,
    "FluxPipeline": save_flux,
    "FluxKontextPipeline": save_flux,
    "Flux2KleinPipeline": save_flux2_klein,
    "OmniGenPipeline": save_omnigen,
    "QwenImageEditPlusPipeline": save_qwen_image_edit,
    "EmuVisualGenerationPipeline": save_emu2,
    "GlidePipeline": save_glide,
}
"""Pipeline class → function that writes a pipeline of the class to `folder / "pipeline"` and the auxiliaries of the entry beside
it, and returns purpose → folder of the auxiliaries."""


def save(name: str, folder: Path) -> Saved:
    """Writes the tiny twin of registry entry `name` into `folder`.

    Raises:
        ValueError: unknown name.
        KeyError: `SAVERS` has no function for the entry's pipeline class.
    """
    import torch

    spec = generator_spec(name)
    torch.manual_seed(0)
    auxiliaries = SAVERS[spec.pipeline](folder, spec)
    return {"source": str(folder / "pipeline"), "auxiliaries": auxiliaries}
