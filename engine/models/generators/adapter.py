"""`PipelineAdapter`: the arguments of a diffusers pipeline for a recipe and its reference image."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.models.generators.prompt_cache import Embeddings, PromptCache
from engine.models.prompt_weights import read_weights
from engine.models.references import canny, fit
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch


@dataclass
class ReferenceModels:
    """The models and settings that one reference mode needs besides the pipeline."""

    preprocessor: str = "canny"
    """Input of the ControlNet: the reference's edges (`canny`) or its pixels (`none`)."""
    edge_range: tuple[float, float] = (0.0, 1.0)
    """Values of the ControlNet's input that mean no edge and edge, or black and white."""
    redux: Any = None
    """The prior pipeline of FLUX.1 Redux."""
    switch: Callable[[bool], None] | None = None
    """Turns the IP-Adapter on and off."""


class PipelineAdapter:
    """The arguments of one loaded pipeline for a recipe: text, guidance, size, and the reference image.

    The base class fits a pipeline with classifier-free guidance and precomputed prompt embeddings; a family overrides what
    differs. An adapter also closes the gaps of the libraries: it rejects what a pipeline would silently ignore, and keeps
    apart what a pipeline would mix between the images of a batch.
    """

    pipeline_name: ClassVar[str]
    """Pipeline class, as `model_index.json` names it."""
    module: ClassVar[str] = "diffusers"
    """Module that defines the pipeline class."""
    architecture: ClassVar[str] = "DiT"
    """Type of generator, as RealRAG's tables group them: `AR`, `U-Net` or `DiT`."""
    denoiser_name: ClassVar[str] = "transformer"
    """Component that runs at every step."""
    mode_pipelines: ClassVar[Mapping[str, str]] = {}
    """Reference mode → class in diffusers that runs it with this pipeline's components, or `` for this pipeline itself."""
    own_modes: ClassVar[tuple[str, ...]] = ("img2img",)
    """Reference modes that need no other model, the default first."""
    controlnet_model: ClassVar[str] = ""
    """ControlNet class in diffusers."""
    control_argument: ClassVar[str] = "control_image"
    """Argument of the ControlNet pipeline that takes the edges."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")
    """Supported arithmetic."""
    needs_reference: ClassVar[bool] = False
    """Whether every image requires a reference image."""
    max_batch: ClassVar[int | None] = None
    """Most images per pipeline call; None for no limit."""
    guided_passes: ClassVar[int] = 2
    """Passes of the denoiser per step at a guidance scale above 1: 1 if the scale is an input of the model."""
    supports_native_scale: ClassVar[bool] = False
    """Whether mode `native` has a `reference_scale`; without one only scale 1 is valid."""
    supports_prompt_weights: ClassVar[bool] = False
    """Whether brackets in a prompt weight its tokens (prompt_weights.py)."""
    vocabularies: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """(Name of its vectors in files, tokenizer, text encoder) of each vocabulary that a learned token enters; none if it takes none."""
    limits_prompts: ClassVar[bool] = True
    """Whether the text encoder reads a limited number of tokens; longer prompts are rejected."""

    def __init__(self, name: str, pipeline: Any, device: str):
        self.name = name
        """Name of the generator, for errors."""
        self.pipeline = pipeline
        self.device = device

    @classmethod
    def check_available(cls, name: str, is_local: bool) -> None:
        """Raises ValueError if a package or weights are missing that cannot be downloaded automatically."""

    @classmethod
    def native_size(cls, folder: Path) -> dict[str, Any]:
        """`height` and `width` in pixels that a checkpoint was trained for; empty if its configs do not say.

        They are the denoiser's latent size times the VAE's downsampling factor.
        """
        try:
            latent = json.loads((folder / cls.denoiser_name / "config.json").read_text())["sample_size"]
            factor = 2 ** (len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]) - 1)
            return {"height": latent * factor, "width": latent * factor}
        except (OSError, KeyError, TypeError, ValueError):
            return {}

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def multiple_of(self) -> int:
        """Heights and widths must be multiples of this number of pixels."""
        return int(self.pipeline.image_processor.config.vae_scale_factor)

    @property
    def supports_guidance(self) -> bool:
        """Whether `guidance_scale` has an effect."""
        return True

    @property
    def supports_negative_prompts(self) -> bool:
        """Whether a negative prompt has an effect."""
        return True

    def guided(self, recipe: Recipe) -> bool:
        """Whether a negative prompt has an effect at the recipe's guidance scale."""
        return recipe.guidance_scale > 1

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError for a field of the recipe that the pipeline would silently ignore or change."""
        for prompt in (recipe.prompt, recipe.negative_prompt):
            if not read_weights(prompt).is_plain and not self.supports_prompt_weights:
                raise ValueError(
                    f"generator {self.name} does not support prompt weights; remove the brackets, or write \\( and \\) for literal ones"
                )
        if recipe.negative_prompt and not self.supports_negative_prompts:
            raise ValueError(f"generator {self.name} does not support negative prompts; leave negative_prompt empty")
        if recipe.negative_prompt and not self.guided(recipe):
            raise ValueError(
                f"a negative prompt has no effect at guidance_scale {recipe.guidance_scale}; raise it above 1"
            )
        for side in (recipe.height, recipe.width):
            if side < 1 or side % self.multiple_of:
                raise ValueError(
                    f"generator {self.name} requires a height and a width that are multiples of {self.multiple_of}, and {side} is not; "
                    f"use {max(1, round(side / self.multiple_of)) * self.multiple_of}"
                )

    def check_length(self, prompt: str, tokenizer: Any, limit: int) -> None:
        """Raises ValueError for a prompt of more than `limit` tokens, since the text encoder would not read its end."""
        found = len(tokenizer(prompt).input_ids)
        if found > limit:
            raise ValueError(f"the prompt has {found} tokens and generator {self.name} reads {limit}; shorten it")

    def batch_key(self, recipe: Recipe, mode: str) -> Hashable:
        """Further value that must be equal in a batch, besides steps, guidance, size and reference mode."""
        return None

    def encode(self, prompt: str) -> Embeddings:
        """Embeddings of one prompt as arguments of the pipeline call, without the batch dimension."""
        raise NotImplementedError

    def encode_negative(self, prompt: str) -> Embeddings:
        """The same for a negative prompt; an empty string means none."""
        return {f"negative_{name}": value for name, value in self.encode(prompt).items()}

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        """Arguments for the prompts, and for the negative prompts where they have an effect."""
        return cache.stack(self.encode, self.prompts(recipes)) | self.negative_text(recipes, cache)

    def negative_text(self, recipes: Sequence[Recipe], cache: PromptCache) -> Embeddings:
        """Arguments for the negative prompts; empty where they have no effect."""
        if not self.guided(recipes[0]):
            return {}
        return cache.stack(self.encode_negative, self.negative_prompts(recipes))

    def prompts(self, recipes: Sequence[Recipe]) -> list[str]:
        """The prompts as the pipeline takes them."""
        return [self.unescape(recipe.prompt) for recipe in recipes]

    def negative_prompts(self, recipes: Sequence[Recipe]) -> list[str]:
        """The negative prompts as the pipeline takes them."""
        return [self.unescape(recipe.negative_prompt) for recipe in recipes]

    def unescape(self, prompt: str) -> str:
        """The prompt as `encode` takes it: unchanged where weights are supported, else with `\\(` and `\\)` as literal brackets."""
        return prompt if self.supports_prompt_weights else read_weights(prompt).text

    def preview(self, latents: "torch.Tensor", recipe: Recipe) -> "torch.Tensor | None":
        """Pixels `[B, 3, H, W]` float, about 0…1, of latents `[B, C, h, w]` between two steps; None where they have another form."""
        vae = getattr(self.pipeline, "vae", None)
        if vae is None or latents.ndim != 4:
            return None
        config = vae.config
        whole = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        pixels: torch.Tensor = vae.decode(whole.to(vae.dtype)).sample
        return pixels / 2 + 0.5

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        """Arguments for steps, guidance and size."""
        return {
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "height": recipe.height,
            "width": recipe.width,
        }

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        """Adds the reference images to the arguments of a batch.

        Args:
            arguments: the arguments so far, changed in place.
            mode: `controlnet`, `img2img`, `ip_adapter`, `native`, or one of the family's own.
            images: uint8 `[H, W, 3]` each, one per recipe.
            recipe: any recipe of the batch; scale and size are the same in all of them.
            models: the models that were loaded for the mode.
        """
        scale, size = recipe.reference_scale, (recipe.height, recipe.width)
        if mode == "controlnet":
            low, high = models.edge_range
            seen = batch_of([_PREPROCESSORS[models.preprocessor](np.asarray(fit(image, *size))) for image in images])
            arguments[self.control_argument] = seen * (high - low) + low
            arguments["controlnet_conditioning_scale"] = scale
        elif mode == "img2img":
            arguments["image"] = batch_of([np.asarray(fit(image, *size)) for image in images]) / 255
            arguments["strength"] = 1 - scale
        elif mode == "ip_adapter":
            self._add_ip_adapter_embeddings(arguments, images, recipe)
        elif mode == "native":
            arguments["image"] = [fit(image, *size) for image in images]
        else:
            raise AssertionError(f"{type(self).__name__} has no reference mode {mode}")

    def _add_ip_adapter_embeddings(
        self, arguments: dict[str, Any], images: Sequence[np.ndarray], recipe: Recipe
    ) -> None:
        """The pipelines show every image of a batch all of its references (diffusers#9813), so they are given finished
        embeddings `[B, 1, D]` and kept from repeating them."""
        import torch

        embeddings = torch.stack([row[0] if isinstance(row, tuple) else row for row in self.encode_images(images)])
        if self.guided(recipe):  # zeros for the unconditional half
            embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])
        self.pipeline.set_ip_adapter_scale(recipe.reference_scale)
        self.pipeline.prepare_ip_adapter_image_embeds = lambda images, embeddings, *rest: embeddings
        arguments["ip_adapter_image_embeds"] = [embeddings]

    def encode_images(self, images: Sequence[np.ndarray], encoder: Any = None) -> "list[Any]":
        """The output of `encode_image` of the pipeline (or of another `encoder` pipeline) for each image alone, so that none
        depends on the others."""
        from PIL import Image

        encoder = encoder or self.pipeline
        return [encoder.encode_image(Image.fromarray(image), self.device, 1) for image in images]


def batch_of(images: Sequence[np.ndarray]) -> "torch.Tensor":
    """`[B, 3, H, W]` float32 of `[H, W, 3]` arrays."""
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


_PREPROCESSORS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": lambda image: canny(image)[..., None].repeat(3, 2).astype(np.float32),
    "none": lambda image: image.astype(np.float32) / 255,
}
"""Preprocessor of a ControlNet → its input for a reference, `[H, W, 3]` in 0…1."""
