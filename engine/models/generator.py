"""`DiffusionGenerator`: recipes and reference images to pixels, each image from its own seed."""

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.generators import PipelineAdapter, ReferenceModels, adapter_of
from engine.models.generators.prompt_cache import PromptCache
from engine.models.inversion.tokens import MARK, LearnedToken, add_tokens, written_tokens
from engine.models.reference_modes import open_mode
from engine.models.references import check_reference
from engine.models.spec import GeneratorSpec
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch

References = Mapping[str, np.ndarray]
"""Reference id → uint8 `[H, W, 3]`."""

OnStep = Callable[[int, "torch.Tensor"], None]
"""Called after each sampler step with its number, from 1, and the latents of the padded batch; it may raise `Stopped`."""


class Stopped(Exception):
    """Raised by an `OnStep` to end the sampling of a batch that nobody wants any more."""


class DiffusionGenerator:
    """A loaded diffusers pipeline. An image depends on its recipe and its reference alone, not on the rest of the batch.

    Batches are padded to `batch_size` by repeating the last recipe, and each recipe has its own noise generator on the CPU, so
    equal recipes give bit-identical pixels at equal batch size, dtype and device.
    """

    def __init__(self, spec: GeneratorSpec, pipeline: Any, device: str, dtype: str, batch_size: int | None = None):
        self.spec = spec
        self.device = device
        self.dtype = dtype
        """Arithmetic of the weights: `float32`, `float16` or `bfloat16`."""
        self.adapter: PipelineAdapter = adapter_of(spec.pipeline)(spec.name, pipeline, device)
        self.batch_size = min(batch_size or spec.batch_size, self.adapter.max_batch or 1 << 30)
        """Images per pipeline call; halved when the device runs out of memory."""
        self._pipeline = pipeline
        self._prompts = PromptCache()
        self._modes: dict[str, tuple[Any, ReferenceModels]] = {"": (pipeline, ReferenceModels())}
        self.tokens: dict[str, LearnedToken] = {}
        """Hash → learned token that recipes may name."""

    def add_tokens(self, tokens: Mapping[str, LearnedToken]) -> None:
        """Adds learned tokens by their hashes; those that it has are left alone. Raises ValueError for tokens of another generator."""
        new = {key: token for key, token in tokens.items() if key not in self.tokens}
        # two tokens of one name may differ, so the pipeline knows them by their hashes
        add_tokens(self._pipeline, self.adapter.vocabularies, {_token_of(key): token for key, token in new.items()})
        self.tokens |= new

    def batch_key(self, recipe: Recipe) -> Hashable:
        """Recipes with equal keys can share a batch."""
        mode = _mode(recipe)
        return (
            recipe.num_inference_steps,
            recipe.guidance_scale,
            recipe.height,
            recipe.width,
            mode,
            recipe.reference_scale if mode else 0.0,
            self.adapter.batch_key(recipe, mode),
        )

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError for a field of the recipe that this generator does not support."""
        if not recipe.prompt:
            raise ValueError("the prompt is empty; give it some text")
        if recipe.num_inference_steps < 1:
            raise ValueError("num_inference_steps is 0; give 1 or more")
        if recipe.reference_id:
            self._check_reference(recipe)
        elif recipe.reference_mode or recipe.reference_scale:
            raise ValueError("reference_mode and reference_scale require a reference image; give reference_id too")
        if self.adapter.needs_reference and not _mode(recipe):
            raise ValueError(f"generator {self.spec.name} requires a reference image; give reference_id")
        expected = self.spec.recipe_revision(recipe.reference_mode)
        weights, _, token = recipe.revision.partition(MARK)
        self._check_token(recipe, token)
        if recipe.revision and weights != expected:
            raise ValueError(
                f"the recipe was planned for revision {recipe.revision} of {self.spec.name}, and {expected} is loaded; "
                "plan it again or load that revision"
            )
        self.adapter.check(recipe)

    def _check_token(self, recipe: Recipe, token: str) -> None:
        """Raises ValueError if the prompt and the revision do not name one and the same learned token, or it is not there."""
        written = set(written_tokens(recipe.prompt + recipe.negative_prompt))
        if token and token not in self.tokens:
            raise ValueError(f"the recipe needs the learned token {token}, which is not loaded; give it to add_tokens")
        if token and written != {self.tokens[token].name}:
            raise ValueError(
                f"the recipe's revision names the learned token {self.tokens[token].name}, and its prompt does not hold that alone; "
                "plan it again"
            )
        if written and not token:
            raise ValueError(
                f"the prompt holds {min(written)}, the form of a learned token, and the recipe names none; use a plan of injected images, "
                "or leave <| out"
            )

    def _check_reference(self, recipe: Recipe) -> None:
        mode, scale = recipe.reference_mode, recipe.reference_scale
        self.spec.check_reference_mode(mode)
        if scale < 0:
            raise ValueError(f"reference_scale {scale} is negative; give 0 or more")
        if mode == "native" and not self.adapter.supports_native_scale and scale not in (0, 1):
            raise ValueError(f"generator {self.spec.name} has no reference scale; set reference_scale to 1")
        if mode == "img2img":
            # whole steps: where none is skipped, some pipelines ignore the reference and begin with noise alone
            num_run, num_skipped = (int(recipe.num_inference_steps * share) for share in (1 - scale, scale))
            if scale and (num_run < 1 or num_skipped < 1):
                raise ValueError(
                    f"img2img at reference_scale {scale} runs or skips less than one of {recipe.num_inference_steps} steps; "
                    "raise num_inference_steps or choose a scale nearer to 0.5"
                )

    def generate(self, recipes: Sequence[Recipe], references: References | None = None) -> "torch.Tensor":
        """Images `[B, 3, H, W]` uint8 on the generator's device.

        Raises:
            ValueError: pixels are not finite, or as `sample` does.
        """
        import torch

        pixels = self.sample(recipes, references)
        if not torch.isfinite(pixels).all():
            raise ValueError("the generator returned pixels that are not finite")
        return to_uint8(pixels)

    def sample(
        self, recipes: Sequence[Recipe], references: References | None = None, on_step: OnStep | None = None
    ) -> "torch.Tensor":
        """Pixels `[B, 3, H, W]` float in 0…1, possibly NaN.

        Args:
            recipes: any number of recipes with equal `batch_key`; they are generated in padded batches.
            references: the images that the recipes name, uint8 `[H, W, 3]` of any size.
            on_step: called after each sampler step, where the pipeline has diffusers' `callback_on_step_end`; it changes no pixel.

        Raises:
            ValueError: a recipe is not supported, a reference is missing or invalid, or the recipes differ in `batch_key`.
            Stopped: `on_step` raised it.
        """
        import torch

        references = references or {}
        for recipe in recipes:
            self.check(recipe)
            if recipe.reference_id and recipe.reference_id not in references:
                raise ValueError(f"reference image {recipe.reference_id} was not given; pass it in references")
        for key in {recipe.reference_id for recipe in recipes} - {""}:
            check_reference(references[key])
        keys = {self.batch_key(recipe) for recipe in recipes}
        if len(keys) != 1:
            raise ValueError(
                f"recipes with {len(keys)} combinations of steps, guidance, size and reference cannot share a batch; "
                "group them by batch_key"
            )
        done: list[torch.Tensor] = []
        position = 0
        while position < len(recipes):
            batch = list(recipes[position : position + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            try:
                done.append(self._sample_batch(padded, references, on_step)[: len(batch)])
            except (torch.OutOfMemoryError, MemoryError):
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
                continue
            position += len(batch)
        return torch.cat(done)

    def preview(self, latents: "torch.Tensor", recipe: Recipe) -> "torch.Tensor | None":
        """Images `[B, 3, H, W]` uint8 of the latents that an `OnStep` was called with; None if the family has no previews.

        `recipe` is any of the batch, for its size.
        """
        import torch

        pixels = self.adapter.preview(latents, recipe)
        return None if pixels is None else to_uint8(torch.nan_to_num(pixels.clamp(0, 1)))

    def _sample_batch(
        self, recipes: Sequence[Recipe], references: References, on_step: OnStep | None = None
    ) -> "torch.Tensor":
        import torch

        recipes = [self._with_token(recipe) for recipe in recipes]
        first = recipes[0]
        mode = _mode(first)
        if mode not in self._modes:
            self._modes[mode] = open_mode(mode, self.adapter, self.spec, self.dtype)
        pipeline, models = self._modes[mode]
        denoiser = self.adapter.denoiser
        # a caching denoiser must be told the branch, and some pipelines do not; these have one branch
        branch = denoiser.cache_context("cond") if getattr(denoiser, "is_cache_enabled", False) else nullcontext()
        with torch.inference_mode(), _switched_on(models.switch), branch:
            arguments = {
                **self.adapter.sampling(first),
                **self.adapter.text(recipes, self._prompts, mode),
                "generator": [torch.Generator("cpu").manual_seed(recipe.seed) for recipe in recipes],
                "output_type": "pt",
            }
            if mode:
                images = [references[recipe.reference_id] for recipe in recipes]
                self.adapter.add_reference(arguments, mode, images, first, models)
            if on_step and "callback_on_step_end" in inspect.signature(type(pipeline).__call__).parameters:
                arguments["callback_on_step_end"] = _as_callback(on_step)
            pixels: torch.Tensor = pipeline(**arguments).images
        return pixels

    def check_text(self, recipe: Recipe) -> None:
        """Encodes the recipe's prompts alone, which costs little, and raises what that raises, as ValueError for one that is too long.

        Families that read a prompt together with its image raise nothing here.
        """
        import torch

        with torch.inference_mode():
            self.adapter.text([self._with_token(recipe)], self._prompts, _mode(recipe))

    def _with_token(self, recipe: Recipe) -> Recipe:
        """The recipe with its learned token under the name that the pipeline knows."""
        token = recipe.revision.partition(MARK)[2]
        if not token:
            return recipe
        return replace(recipe, prompt=recipe.prompt.replace(self.tokens[token].name, _token_of(token)))


def _token_of(key: str) -> str:
    """Name of a learned token in the pipeline."""
    return f"<|{key}|>"


def _as_callback(on_step: OnStep) -> Callable[..., dict[str, Any]]:
    """The callback in diffusers' form; it changes nothing of what the pipeline goes on with."""

    def callback(pipeline: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, values["latents"])
        return {}

    return callback


def _mode(recipe: Recipe) -> str:
    """The mode of the recipe's reference; empty without a reference, and at scale 0, where the reference has no effect."""
    return recipe.reference_mode if recipe.reference_id and recipe.reference_scale else ""


@contextmanager
def _switched_on(switch: Callable[[bool], None] | None) -> Iterator[None]:
    """Turns an IP-Adapter on for one batch, so that the batches without a reference stay bit-identical."""
    if switch is None:
        yield
        return
    switch(True)
    try:
        yield
    finally:
        switch(False)


def to_uint8(pixels: "torch.Tensor") -> "torch.Tensor":
    """Float pixels in 0…1 to uint8, rounded to the nearest level."""
    import torch

    return (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
