"""Text-to-image generators through diffusers: recipes to pixels, each image by its own seed."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.models.precision import native_dtype
from engine.models.registry import GeneratorSpec, check_weights, generator_spec
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch

_MAX_CACHED_PROMPTS = 4096


class DiffusionGenerator:
    """A diffusers pipeline that makes an image from its recipe alone, whatever else is in the batch.

    Batches are padded to `batch_size` (its last recipe repeated), and noise comes from a CPU generator a recipe, so
    the same recipe gives the same pixels, bit for bit, at equal batch size, dtype and device.
    """

    def __init__(self, spec: GeneratorSpec, pipeline: Any, device: str, dtype: str, batch_size: int | None = None):
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size or spec.batch_size
        self._pipeline = pipeline
        self._embeds: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._caches_prompts = type(pipeline).__name__ == "StableDiffusionPipeline"

    def batch_key(self, recipe: Recipe) -> Hashable:
        """Recipes with equal keys may share a batch."""
        return (recipe.num_inference_steps, recipe.guidance_scale, recipe.height, recipe.width)

    def check(self, recipe: Recipe) -> None:
        """Refuses what this generator would drop in silence.

        Raises:
            ValueError: a field of the recipe that this generator cannot honour.
        """
        if recipe.reference_id:
            raise ValueError(f"generator {self.spec.name} takes no reference image; leave reference_id empty")
        if recipe.negative_prompt and recipe.guidance_scale <= 1:
            raise ValueError(
                f"a negative prompt has no effect at guidance_scale {recipe.guidance_scale}; raise it above 1"
            )
        if not recipe.prompt:
            raise ValueError("the prompt is empty; give it some text")

    def generate(self, recipes: Sequence[Recipe]) -> "torch.Tensor":
        """Images `[B, 3, H, W]` uint8 on the generator's device, and NaN pixels as an error of `generate_checked`.

        Raises:
            ValueError: a recipe asks for what the generator cannot do, or the recipes have different `batch_key`s.
        """
        import torch

        pixels = self.sample(recipes)
        if not torch.isfinite(pixels).all():
            raise ValueError("the generator returned pixels that are not finite")
        return to_uint8(pixels)

    def sample(self, recipes: Sequence[Recipe]) -> "torch.Tensor":
        """Pixels `[B, 3, H, W]` float in 0…1, possibly NaN; any number of recipes of one `batch_key`, padded batch by batch."""
        import torch

        keys = {self.batch_key(recipe) for recipe in recipes}
        if len(keys) != 1:
            raise ValueError(
                f"recipes of {len(keys)} different steps, guidance or sizes cannot share a batch; group them by batch_key"
            )
        for recipe in recipes:
            self.check(recipe)
        done: list[torch.Tensor] = []
        position = 0
        while position < len(recipes):
            batch = list(recipes[position : position + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            try:
                done.append(self._sample_batch(padded)[: len(batch)])
            except (torch.OutOfMemoryError, MemoryError):
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
                continue
            position += len(batch)
        return torch.cat(done)

    def _sample_batch(self, recipes: Sequence[Recipe]) -> "torch.Tensor":
        import torch

        first = recipes[0]
        arguments: dict[str, Any] = {
            "num_inference_steps": first.num_inference_steps,
            "guidance_scale": first.guidance_scale,
            "height": first.height,
            "width": first.width,
            "generator": [torch.Generator("cpu").manual_seed(recipe.seed) for recipe in recipes],
            "output_type": "pt",
        }
        guided = first.guidance_scale > 1
        with torch.inference_mode():
            if self._caches_prompts:
                arguments["prompt_embeds"] = self._embed([recipe.prompt for recipe in recipes])
                if guided:
                    arguments["negative_prompt_embeds"] = self._embed([recipe.negative_prompt for recipe in recipes])
            else:
                arguments["prompt"] = [recipe.prompt for recipe in recipes]
                if guided:
                    arguments["negative_prompt"] = [recipe.negative_prompt for recipe in recipes]
            return self._pipeline(**arguments).images

    def _embed(self, prompts: Sequence[str]) -> "torch.Tensor":
        """Prompt embeddings `[B, T, D]`; each distinct prompt goes through the text encoder once, alone.

        Alone, because a text encoder's arithmetic may depend on how many texts it is given.
        """
        import torch

        for prompt in dict.fromkeys(prompts):
            if prompt in self._embeds:
                self._embeds.move_to_end(prompt)
            else:
                self._embeds[prompt] = self._pipeline.encode_prompt([prompt], self.device, 1, False)[0][0]
        stacked = torch.stack([self._embeds[prompt] for prompt in prompts])
        while len(self._embeds) > _MAX_CACHED_PROMPTS:
            self._embeds.popitem(last=False)
        return stacked


def to_uint8(pixels: "torch.Tensor") -> "torch.Tensor":
    """Float pixels in 0…1 to uint8, rounded to the nearest level."""
    import torch

    return (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)


def load_generator(name: str, *, device: str = "cpu", batch_size: int | None = None) -> DiffusionGenerator:
    """The generator of this name (`mini`, `sd21`, …) or in this diffusers folder.

    Raises:
        ValueError: unknown name; pickled, missing or unfitting weights.
    """
    import diffusers
    import torch
    from diffusers.utils import logging

    spec = generator_spec(name)
    dtype = native_dtype(spec.dtype, device)
    pipeline_class = getattr(diffusers, spec.pipeline) if spec.pipeline else diffusers.DiffusionPipeline
    if spec.is_local:
        check_weights(Path(spec.source))
    logging.disable_progress_bar()
    try:
        pipeline = pipeline_class.from_pretrained(
            spec.source,
            revision=None if spec.is_local else spec.revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=spec.is_local,
        )
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"generator {name!r} could not be loaded ({first_line}); check its files or your connection"
        ) from error
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionGenerator(spec, pipeline, device, dtype, batch_size)
