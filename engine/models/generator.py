"""Image generators through diffusers: recipes and reference images to pixels, each image by its own seed."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.families import family_of, pipeline_class
from engine.models.family import Family, Parts, PromptCache
from engine.models.faults import is_device_fault
from engine.models.precision import check_dtype, native_dtype
from engine.models.references import check_reference
from engine.models.registry import Auxiliary, GeneratorSpec, generator_spec
from engine.models.speed import apply_levers
from engine.models.weights import check_memory, check_weights
from engine.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

References = Mapping[str, np.ndarray]
"""Reference id → uint8 `[H, W, 3]`."""


class DiffusionGenerator:
    """A diffusers pipeline that makes an image from its recipe and its reference alone, whatever else is in the batch.

    Batches are padded to `batch_size` (its last recipe repeated), and noise comes from a CPU generator a recipe, so
    the same recipe gives the same pixels, bit for bit, at equal batch size, dtype and device.
    """

    def __init__(self, spec: GeneratorSpec, pipeline: Any, device: str, dtype: str, batch_size: int | None = None):
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.family: Family = family_of(spec.pipeline)(spec.name, pipeline, device)
        self.batch_size = min(batch_size or spec.batch_size, self.family.max_batch or 1 << 30)
        self._pipeline = pipeline
        self._prompts = PromptCache()
        self._opened: dict[str, tuple[Any, Parts]] = {"": (pipeline, Parts())}

    def batch_key(self, recipe: Recipe) -> Hashable:
        """Recipes with equal keys may share a batch."""
        mode = _mode(recipe)
        return (
            recipe.num_inference_steps,
            recipe.guidance_scale,
            recipe.height,
            recipe.width,
            mode,
            recipe.reference_scale if mode else 0.0,
            self.family.batch_key(recipe, mode),
        )

    def check(self, recipe: Recipe) -> None:
        """Refuses what this generator would drop in silence.

        Raises:
            ValueError: a field of the recipe that this generator cannot honour.
        """
        if not recipe.prompt:
            raise ValueError("the prompt is empty; give it some text")
        if recipe.num_inference_steps < 1:
            raise ValueError("num_inference_steps is 0; give 1 or more")
        if recipe.reference_id:
            self._check_reference(recipe)
        elif recipe.reference_mode or recipe.reference_scale:
            raise ValueError("a reference mode or scale without a reference image means nothing; give reference_id too")
        if self.family.needs_reference and not _mode(recipe):
            raise ValueError(f"generator {self.spec.name} draws nothing without a reference image; give reference_id")
        expected = self.spec.recipe_revision(recipe.reference_mode)
        if recipe.revision and recipe.revision != expected:
            raise ValueError(
                f"the recipe was planned for revision {recipe.revision} of {self.spec.name}, and {expected} is loaded; "
                "plan it again or load that revision"
            )
        self.family.check(recipe)

    def _check_reference(self, recipe: Recipe) -> None:
        mode, scale = recipe.reference_mode, recipe.reference_scale
        self.spec.check_reference_mode(mode)
        if scale < 0:
            raise ValueError(f"reference_scale {scale} is negative; give 0 or more")
        if mode == "native" and not self.family.native_scale and scale not in (0, 1):
            raise ValueError(f"generator {self.spec.name} has no scale for its references; set reference_scale to 1")
        if mode == "img2img":
            # whole steps of drawing, and of noise left out: with none left out, some pipelines would begin with noise alone
            drawn, left_out = (int(recipe.num_inference_steps * share) for share in (1 - scale, scale))
            if scale and (drawn < 1 or left_out < 1):
                raise ValueError(
                    f"img2img at reference_scale {scale} and {recipe.num_inference_steps} steps leaves nothing to draw or nothing of the reference; "
                    "raise num_inference_steps or choose another scale between 0 and 1"
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

    def sample(self, recipes: Sequence[Recipe], references: References | None = None) -> "torch.Tensor":
        """Pixels `[B, 3, H, W]` float in 0…1, possibly NaN; any number of recipes of one `batch_key`, padded batch by batch.

        `references` holds the images that the recipes name, uint8 `[H, W, 3]` of any size.

        Raises:
            ValueError: a recipe asks for what the generator cannot do, a reference is missing or no image, or the
                recipes have different `batch_key`s.
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
                f"recipes of {len(keys)} different steps, guidance, sizes or references cannot share a batch; group them by batch_key"
            )
        done: list[torch.Tensor] = []
        position = 0
        while position < len(recipes):
            batch = list(recipes[position : position + self.batch_size])
            padded = batch + batch[-1:] * (self.batch_size - len(batch))
            try:
                done.append(self._sample_batch(padded, references)[: len(batch)])
            except (torch.OutOfMemoryError, MemoryError):
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                if self.device.startswith("cuda"):
                    torch.cuda.empty_cache()
                continue
            position += len(batch)
        return torch.cat(done)

    def _sample_batch(self, recipes: Sequence[Recipe], references: References) -> "torch.Tensor":
        import torch

        first = recipes[0]
        mode = _mode(first)
        pipeline, parts = self._open(mode)
        denoiser = self.family.denoiser
        # not every pipeline tells a caching denoiser what it is asked for; here there is one question at a time
        asked = denoiser.cache_context("cond") if getattr(denoiser, "is_cache_enabled", False) else nullcontext()
        with torch.inference_mode(), _ready(parts), asked:
            arguments = {
                **self.family.sampling(first),
                **self.family.text(recipes, self._prompts, mode),
                "generator": [torch.Generator("cpu").manual_seed(recipe.seed) for recipe in recipes],
                "output_type": "pt",
            }
            if mode:
                images = [references[recipe.reference_id] for recipe in recipes]
                self.family.refer(arguments, mode, images, first, parts)
            pixels: torch.Tensor = pipeline(**arguments).images
        return pixels

    def _open(self, mode: str) -> tuple[Any, Parts]:
        """The pipeline that runs a reference mode, made of the parts that are loaded already, and what else it needs."""
        if mode not in self._opened:
            self._opened[mode] = self._open_anew(mode)
        return self._opened[mode]

    def _open_anew(self, mode: str) -> tuple[Any, Parts]:
        import diffusers

        parts, more = Parts(), {}
        if mode == "controlnet":
            auxiliary = self.spec.auxiliaries[mode]
            more["controlnet"] = self._load(getattr(diffusers, self.family.controlnet_model), auxiliary)
            parts.preprocessor, parts.edge_range = auxiliary.preprocessor, auxiliary.edge_range
        elif mode == "ip_adapter":
            parts.switch = self._load_ip_adapter()
        elif mode == "redux":
            parts.redux = self._load(diffusers.FluxPriorReduxPipeline, self.spec.auxiliaries[mode])
        class_name = self.family.pipelines[mode]
        if not class_name:
            return self._pipeline, parts
        other_class = getattr(diffusers, class_name)
        known = inspect.signature(other_class.__init__).parameters
        shared = {name: part for name, part in self._pipeline.components.items() if name in known}
        return _quiet(other_class(**shared, **more)), parts

    def _load(self, model_class: Any, auxiliary: Auxiliary) -> Any:
        """An auxiliary model on the generator's device and in its dtype."""
        import torch

        if auxiliary.is_local:
            check_weights(Path(auxiliary.source))
        with _one_sentence(auxiliary.source, auxiliary.gated):
            model = model_class.from_pretrained(auxiliary.source, dtype=getattr(torch, self.dtype), **auxiliary.pin)
        return model.to(self.device)

    def _load_ip_adapter(self) -> "Callable[[bool], None]":
        """Loads the adapter and its image encoder; gives a switch that turns it on and off.

        Off means the attention and projection that were there before, so plain images stay the same bit for bit.
        """
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        pipeline, denoiser = self._pipeline, self.family.denoiser
        encoder = self._load(CLIPVisionModelWithProjection, self.spec.auxiliaries["image_encoder"])
        size = encoder.config.image_size
        pipeline.register_modules(
            image_encoder=encoder, feature_extractor=CLIPImageProcessor(size=size, crop_size=size)
        )
        adapter = self.spec.auxiliaries["ip_adapter"]
        plain = denoiser.attn_processors, getattr(denoiser, "encoder_hid_proj", None)
        with _one_sentence(adapter.source, adapter.gated):
            pipeline.load_ip_adapter(
                adapter.source,
                subfolder=adapter.subfolder,
                weight_name=adapter.weights,
                revision=None if adapter.is_local else adapter.revision,
                local_files_only=adapter.is_local,
                **{_image_encoder_argument(pipeline): None},
            )
        projection = denoiser.encoder_hid_proj.to(device=self.device, dtype=denoiser.dtype)
        adapted = denoiser.attn_processors, projection

        def switch(on: bool) -> None:
            processors, projection = adapted if on else plain
            denoiser.set_attn_processor(dict(processors))
            denoiser.encoder_hid_proj = projection

        switch(False)
        return switch


def _mode(recipe: Recipe) -> str:
    """How the recipe's reference enters; a reference of scale 0 plays no part, so the image is the plain one."""
    return recipe.reference_mode if recipe.reference_id and recipe.reference_scale else ""


@contextmanager
def _ready(parts: Parts) -> "Iterator[None]":
    """An IP-Adapter is turned on for its own batches alone."""
    switch = getattr(parts, "switch", None)
    if switch is None:
        yield
        return
    switch(True)
    try:
        yield
    finally:
        switch(False)


def _image_encoder_argument(pipeline: Any) -> str:
    names = inspect.signature(pipeline.load_ip_adapter).parameters
    return next(name for name in names if name.startswith("image_encoder_") and name.endswith(("_folder", "_path")))


def to_uint8(pixels: "torch.Tensor") -> "torch.Tensor":
    """Float pixels in 0…1 to uint8, rounded to the nearest level."""
    import torch

    return (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)


def load_generator(
    generator: str | GeneratorSpec, *, device: str = "cpu", batch_size: int | None = None, dtype: str | None = None
) -> DiffusionGenerator:
    """The generator of this name (`mini`, `sd21`, …), in this diffusers folder, or of this spec.

    Args:
        generator: name, folder or spec.
        device: `cpu`, `cuda`, `cuda:1`, …
        batch_size: images generated at once; None for the spec's own number.
        dtype: `float32`, `float16` or `bfloat16`; None for the spec's own where the device computes with it, else float32.

    Raises:
        ValueError: unknown name, or a dtype it does not compute in; pickled, missing or unfitting weights; more weights than the device has memory.
    """
    import torch
    from diffusers.utils import logging

    spec = generator_spec(generator) if isinstance(generator, str) else generator
    family = family_of(spec.pipeline)
    family.check_available(spec.name, spec.is_local)
    dtype = native_dtype(spec.dtype, device) if dtype is None else check_dtype(dtype)
    if dtype not in family.dtypes:
        raise ValueError(f"generator {spec.name} does not compute in {dtype}; choose from: {', '.join(family.dtypes)}")
    if spec.is_local:
        check_weights(Path(spec.source))
    check_memory(spec.name, spec.weights_bytes(dtype), dtype, device)
    logging.disable_progress_bar()
    with _one_sentence(spec.name, spec.gated):
        pipeline = _load_pipeline(spec, getattr(torch, dtype))
    apply_levers(pipeline, getattr(pipeline, family.denoiser_name), spec, device)
    pipeline.to(device)
    if hasattr(pipeline, "vae"):
        _take_the_mode(pipeline.vae)
    if hasattr(pipeline, "watermark"):  # else pixels depend on whether a watermark package is installed
        pipeline.watermark = None
    return DiffusionGenerator(spec, _quiet(pipeline), device, dtype, batch_size)


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
    """The UNet of one safetensors file, in the shape of the source's own."""
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


def _take_the_mode(vae: Any) -> None:
    """Makes the VAE encode references to the mode of their posterior: some pipelines sample it, and without a seed.

    A tiny VAE has no posterior; its latents stand in for one, since some pipelines ask for nothing else.
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


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@contextmanager
def _one_sentence(name: str, gated: bool) -> "Iterator[None]":
    """Turns what the libraries raise while loading into one ValueError."""
    try:
        yield
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        if is_device_fault(error):
            raise
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "accept its licence on the Hub and log in, or " if gated else ""
        raise ValueError(
            f"generator {name!r} could not be loaded ({first_line}); {advice}check its files or your connection"
        ) from error
