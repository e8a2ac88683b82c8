"""FLUX.1 and FLUX.1 Kontext."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from engine.models.generators.adapter import PipelineAdapter, ReferenceModels, batch_of
from engine.models.generators.prompt_cache import Embeddings
from engine.models.prompt_weights import TextEncoder, read_weights, weight_embeds
from engine.models.references import fit
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch


class Flux(PipelineAdapter):
    """FLUX.1. Guidance is an input of the distilled model, so a negative prompt has no effect."""

    pipeline_name = "FluxPipeline"
    mode_pipelines: ClassVar = {
        "controlnet": "FluxControlNetPipeline",
        "img2img": "FluxImg2ImgPipeline",
        "ip_adapter": "",
        "redux": "",
    }
    controlnet_model = "FluxControlNetModel"
    guided_passes = 1
    supports_prompt_weights = True

    @property
    def supports_guidance(self) -> bool:
        return bool(self.pipeline.transformer.config.guidance_embeds)

    @property
    def supports_negative_prompts(self) -> bool:
        return False

    def guided(self, recipe: Recipe) -> bool:
        return False

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.guidance_scale and not self.supports_guidance:
            raise ValueError(f"generator {self.name} does not support guidance; set guidance_scale to 0")

    def encode(self, prompt: str) -> Embeddings:
        pipeline, weighted = self.pipeline, read_weights(prompt)
        # schnell, the variant without guidance, was trained on half as many tokens
        length = 512 if self.supports_guidance else 256
        self.check_length(weighted.text, pipeline.tokenizer_2, length)
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt=weighted.text, prompt_2=None, device=self.device, max_sequence_length=length
        )
        encoder = TextEncoder(pipeline.tokenizer_2, pipeline.text_encoder_2)
        return {
            "prompt_embeds": weight_embeds(pipeline, weighted, embeds, [encoder])[0],
            "pooled_prompt_embeds": pooled[0],
        }

    def preview(self, latents: "torch.Tensor", recipe: Recipe) -> "torch.Tensor | None":
        factor = self.pipeline.vae_scale_factor
        return super().preview(self.pipeline._unpack_latents(latents, recipe.height, recipe.width, factor), recipe)

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        import torch

        if mode == "redux":  # the prior's own call would add up the references of a batch
            rows = self.encode_images(images, models.redux)
            tokens = torch.cat([models.redux.image_embedder(row).image_embeds for row in rows])
            prompts = arguments["prompt_embeds"]
            arguments["prompt_embeds"] = torch.cat([prompts, recipe.reference_scale * tokens.to(prompts)], 1)
            return
        super().add_reference(arguments, mode, images, recipe, models)
        if mode == "ip_adapter":  # without it, the pipeline would invent a negative image and encode that
            arguments["negative_ip_adapter_image_embeds"] = [torch.zeros_like(arguments["ip_adapter_image_embeds"][0])]


class FluxKontext(Flux):
    """FLUX.1 Kontext, whose transformer reads the reference's latents beside the noise."""

    pipeline_name = "FluxKontextPipeline"
    mode_pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        # by default the pipeline generates about a megapixel whatever the size, and scales every reference to that
        return super().sampling(recipe) | {"max_area": recipe.height * recipe.width, "_auto_resize": False}

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        arguments["image"] = batch_of([np.asarray(fit(image, recipe.height, recipe.width)) for image in images]) / 255
