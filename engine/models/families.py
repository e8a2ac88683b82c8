"""How each kind of diffusers pipeline is spoken to: its text, its guidance, and how a reference image enters it.

A family is made for one loaded pipeline. It is also where the libraries' silent faults are mended: what a pipeline would
ignore is refused, what it would mix between the images of a batch is kept apart, what it would draw without a seed is not drawn.
"""

from collections.abc import Hashable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from engine.models.family import Embeddings, Family, Parts, PromptCache, batch_of
from engine.models.prompt_weights import prompt_embeds, read_weights
from engine.models.references import fit
from engine.recipe import Recipe


class StableDiffusion(Family):
    """Stable Diffusion 1 and 2."""

    denoiser_name = "unet"
    pipelines: ClassVar = {
        "controlnet": "StableDiffusionControlNetPipeline",
        "img2img": "StableDiffusionImg2ImgPipeline",
        "ip_adapter": "",
    }
    controlnet_model = "ControlNetModel"
    control_argument = "image"

    def encode(self, prompt: str) -> Embeddings:
        text = read_weights(prompt).text
        self.check_length(text, self.pipeline.tokenizer, self.pipeline.tokenizer.model_max_length)
        return {name: rows[0] for name, rows in prompt_embeds(self.pipeline, prompt).items()}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        super().refer(arguments, mode, images, recipe, parts)
        if mode == "img2img":  # these pipelines take the size from the image
            del arguments["height"], arguments["width"]


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL and what was distilled from it."""

    pipelines: ClassVar = {
        "controlnet": "StableDiffusionXLControlNetPipeline",
        "img2img": "StableDiffusionXLImg2ImgPipeline",
        "ip_adapter": "",
    }

    def encode_negative(self, prompt: str) -> Embeddings:
        found = super().encode_negative(prompt)
        if not prompt and self.pipeline.config.force_zeros_for_empty_prompt:
            return {name: value * 0 for name, value in found.items()}
        return found


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5. Its IP-Adapter takes one image only, so it is not offered."""

    pipelines: ClassVar = {
        "controlnet": "StableDiffusion3ControlNetPipeline",
        "img2img": "StableDiffusion3Img2ImgPipeline",
    }
    controlnet_model = "SD3ControlNetModel"

    @property
    def multiple_of(self) -> int:
        return super().multiple_of * int(self.pipeline.transformer.config.patch_size)

    def encode(self, prompt: str) -> Embeddings:
        pipeline = self.pipeline
        if pipeline.text_encoder_3 is not None:  # CLIP reads the beginning, T5 all
            self.check_length(prompt, pipeline.tokenizer_3, 256)
        else:
            self.check_length(prompt, pipeline.tokenizer, pipeline.tokenizer.model_max_length)
        found = pipeline.encode_prompt(
            [prompt], [prompt], [prompt], device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": found[0][0], "pooled_prompt_embeds": found[2][0]}


class Flux(Family):
    """FLUX.1. Its guidance is a number the model is told, so a negative prompt has nowhere to enter."""

    pipelines: ClassVar = {
        "controlnet": "FluxControlNetPipeline",
        "img2img": "FluxImg2ImgPipeline",
        "ip_adapter": "",
        "redux": "",
    }
    controlnet_model = "FluxControlNetModel"

    @property
    def takes_negative_prompts(self) -> bool:
        return False

    def guided(self, recipe: Recipe) -> bool:
        return False

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.guidance_scale and not self.pipeline.transformer.config.guidance_embeds:
            raise ValueError(f"generator {self.name} has no guidance; set guidance_scale to 0")

    def encode(self, prompt: str) -> Embeddings:
        # schnell, the one without guidance, was trained on half as many tokens
        length = 512 if self.pipeline.transformer.config.guidance_embeds else 256
        self.check_length(read_weights(prompt).text, self.pipeline.tokenizer_2, length)
        found = prompt_embeds(self.pipeline, prompt, max_sequence_length=length)
        return {name: rows[0] for name, rows in found.items()}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        import torch
        from PIL import Image

        if mode == "redux":  # its pipeline would add up the references of a batch, so each is embedded alone
            prior = parts.redux
            rows = [prior.encode_image(Image.fromarray(image), self.device, 1) for image in images]
            tokens = torch.cat([prior.image_embedder(row).image_embeds for row in rows])
            prompts = arguments["prompt_embeds"]
            arguments["prompt_embeds"] = torch.cat([prompts, recipe.reference_scale * tokens.to(prompts)], 1)
            return
        super().refer(arguments, mode, images, recipe, parts)
        if mode == "ip_adapter":  # left out, a negative image would be made up and encoded
            arguments["negative_ip_adapter_image_embeds"] = [torch.zeros_like(arguments["ip_adapter_image_embeds"][0])]


class FluxKontext(Flux):
    """FLUX.1 Kontext: the reference's latents stand beside the noise."""

    pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        # left to itself it draws about a megapixel whatever is asked, and scales every reference to that
        return super().sampling(recipe) | {"max_area": recipe.height * recipe.width, "_auto_resize": False}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        arguments["image"] = batch_of([np.asarray(fit(image, recipe.height, recipe.width)) for image in images]) / 255


class Flux2Klein(Family):
    """FLUX.2 klein; the distilled ones have no guidance and so no negative prompt."""

    pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def __init__(self, name: str, pipeline: Any, device: str):
        super().__init__(name, pipeline, device)
        prepare = pipeline.prepare_image_latents

        def prepare_each(images: Sequence[Any], batch_size: int, **rest: Any) -> tuple[Any, ...]:
            """One reference a sample; the pipeline would show all of them to every sample."""
            import torch

            found = [prepare(images=[image], batch_size=1, **rest) for image in images]
            return tuple(torch.cat(column) for column in zip(*found, strict=True))

        pipeline.prepare_image_latents = prepare_each

    @property
    def takes_negative_prompts(self) -> bool:
        return not self.pipeline.config.is_distilled

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.guidance_scale > 1 and not self.takes_negative_prompts:
            raise ValueError(f"generator {self.name} has no guidance; set guidance_scale to 1")
        if recipe.reference_id and min(recipe.height, recipe.width) < 64:
            raise ValueError(
                f"generator {self.name} takes references from 64 pixels a side; ask for images of 64 pixels or more"
            )

    def encode(self, prompt: str) -> Embeddings:
        self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.tokenizer_max_length)
        return {"prompt_embeds": self.pipeline.encode_prompt([prompt], device=self.device)[0][0]}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        arguments["image"] = [fit(image, recipe.height, recipe.width) for image in images]


class OmniGen(Family):
    """OmniGen: one transformer reads text and reference together; `reference_scale` is its guidance by the image."""

    pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)
    native_scale = True
    _MARK = "<img><|image_1|></img> "

    @property
    def multiple_of(self) -> int:
        return super().multiple_of * int(self.pipeline.transformer.config.patch_size)

    @property
    def takes_negative_prompts(self) -> bool:
        return False

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if "<|image_" in recipe.prompt:
            raise ValueError("the prompt holds OmniGen's mark for an image (<|image_…|>); take it out")

    def batch_key(self, recipe: Recipe, mode: str) -> Hashable:
        """The number of text tokens: positions of the first sample are used for the whole batch, so lengths must agree."""
        processor = self.pipeline.multimodal_processor
        text = processor.add_prefix_instruction((self._MARK if mode else "") + self.written(recipe.prompt))
        return sum(len(processor.text_tokenizer(part).input_ids) for part in text.split("<|image_1|>"))

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        return {"prompt": [(self._MARK if mode else "") + self.written(recipe.prompt) for recipe in recipes]}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        arguments["input_images"] = [[fit(image, recipe.height, recipe.width)] for image in images]
        arguments["max_input_image_size"] = max(recipe.height, recipe.width)
        arguments["img_guidance_scale"] = recipe.reference_scale


class QwenImageEdit(Family):
    """Qwen-Image-Edit with one reference; the library makes one image at a time."""

    pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)
    needs_reference = True
    max_batch = 1

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {"prompt": [self.written(recipe.prompt) for recipe in recipes]}
        if self.guided(recipes[0]):  # without a negative prompt, if only a blank, there would be no guidance
            arguments["negative_prompt"] = [self.written(recipe.negative_prompt) or " " for recipe in recipes]
        return arguments

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        arguments = super().sampling(recipe)
        return arguments | {"true_cfg_scale": arguments.pop("guidance_scale")}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        arguments["image"] = [fit(image, recipe.height, recipe.width) for image in images]


class Emu2(Family):
    """Emu2-Gen: a language model reads text and reference; the embeddings it goes on with are what the UNet draws from."""

    home = "engine.models.emu2"
    denoiser_name = "unet"
    pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        for prompt in (recipe.prompt, recipe.negative_prompt):
            if mark := next((mark for mark in self.pipeline.marks if mark in prompt), ""):
                raise ValueError(f"the prompt holds Emu2's mark for an image ({mark}); take it out")
            self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.max_prompt_tokens)

    def encode(self, prompt: str) -> Embeddings:
        return {"prompt_embeds": self.pipeline.encode_prompt(prompt)[0]}

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        if not mode:
            return super().text(recipes, cache, mode)
        # a prompt with a reference is read together with it, so there is nothing to keep
        return {"prompt": [self.written(recipe.prompt) for recipe in recipes], **self.negative_text(recipes, cache)}

    def refer(
        self, arguments: dict[str, Any], mode: str, images: Sequence[np.ndarray], recipe: Recipe, parts: Parts
    ) -> None:
        side = self.pipeline.image_size
        arguments["image"] = [fit(image, side, side) for image in images]


class Glide(Family):
    """GLIDE: a base model and an upsampler, both at one size; it takes no reference."""

    home = "engine.models.glide"
    denoiser_name = "base"
    dtypes = ("float32", "float16")

    @classmethod
    def check_available(cls, name: str, is_local: bool) -> None:
        if find_spec("glide_text2im") is None:
            raise ValueError(
                f"generator {name} needs OpenAI's package, which no index has; "
                "install it with: pip install git+https://github.com/openai/glide-text2im"
            )
        if not is_local:
            raise ValueError(
                f"generator {name} has no weights on the Hub; write base.pt and upsample.pt of github.com/openai/glide-text2im "
                "into a folder with `python -m engine.models convert-glide`, and give it as the generator's source"
            )

    @property
    def multiple_of(self) -> int:
        return int(self.pipeline.image_size)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        side = self.pipeline.image_size
        if (recipe.height, recipe.width) != (side, side):
            raise ValueError(f"generator {self.name} draws {side} x {side} pixels and nothing else; ask for that size")
        for prompt in (recipe.prompt, recipe.negative_prompt):
            self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.max_prompt_tokens)

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        return {
            "prompt": [self.written(recipe.prompt) for recipe in recipes],
            "negative_prompt": [self.written(recipe.negative_prompt) for recipe in recipes],
        }


FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "FluxKontextPipeline": FluxKontext,
    "Flux2KleinPipeline": Flux2Klein,
    "OmniGenPipeline": OmniGen,
    "QwenImageEditPlusPipeline": QwenImageEdit,
    "EmuVisualGenerationPipeline": Emu2,
    "GlidePipeline": Glide,
}
"""Pipeline class, as `model_index.json` names it → how it is spoken to."""


def family_of(pipeline: str) -> type[Family]:
    """The family of a pipeline class. Raises ValueError for a class that is not known here."""
    if pipeline not in FAMILIES:
        raise ValueError(f"pipeline class {pipeline!r} is not known here; use a checkpoint of {', '.join(FAMILIES)}")
    return FAMILIES[pipeline]


def pipeline_class(pipeline: str) -> Any:
    """The class of this name: diffusers' own, or this package's where the library has none. Raises ValueError as `family_of` does."""
    return getattr(import_module(family_of(pipeline).home), pipeline)
