"""Stable Diffusion 1, 2 and XL."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from engine.models.generators.adapter import PipelineAdapter, ReferenceModels
from engine.models.generators.prompt_cache import Embeddings
from engine.models.prompt_weights import TextEncoder, read_weights, weight_embeds
from engine.recipe import Recipe


class StableDiffusion(PipelineAdapter):
    """Stable Diffusion 1 and 2."""

    pipeline_name = "StableDiffusionPipeline"
    architecture = "U-Net"
    denoiser_name = "unet"
    mode_pipelines: ClassVar = {
        "controlnet": "StableDiffusionControlNetPipeline",
        "img2img": "StableDiffusionImg2ImgPipeline",
        "ip_adapter": "",
    }
    controlnet_model = "ControlNetModel"
    control_argument = "image"
    supports_prompt_weights = True
    vocabularies: ClassVar[tuple[tuple[str, str, str], ...]] = (("emb_params", "tokenizer", "text_encoder"),)

    def encode(self, prompt: str) -> Embeddings:
        pipeline, weighted = self.pipeline, read_weights(prompt)
        # a learned token of several vectors takes as many places
        text = pipeline.maybe_convert_prompt(weighted.text, pipeline.tokenizer)
        self.check_length(text, pipeline.tokenizer, pipeline.tokenizer.model_max_length)
        embeds, _ = pipeline.encode_prompt(weighted.text, self.device, 1, False)
        encoder = TextEncoder(pipeline.tokenizer, pipeline.text_encoder)
        return {"prompt_embeds": weight_embeds(pipeline, weighted, embeds, [encoder])[0]}

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        super().add_reference(arguments, mode, images, recipe, models)
        if mode == "img2img":  # these pipelines take the size from the image
            del arguments["height"], arguments["width"]


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL and the models distilled from it."""

    pipeline_name = "StableDiffusionXLPipeline"
    vocabularies = (("clip_l", "tokenizer", "text_encoder"), ("clip_g", "tokenizer_2", "text_encoder_2"))
    mode_pipelines: ClassVar = {
        "controlnet": "StableDiffusionXLControlNetPipeline",
        "img2img": "StableDiffusionXLImg2ImgPipeline",
        "ip_adapter": "",
    }

    def encode(self, prompt: str) -> Embeddings:
        pipeline, weighted = self.pipeline, read_weights(prompt)
        # a learned token of several vectors takes as many places
        text = pipeline.maybe_convert_prompt(weighted.text, pipeline.tokenizer)
        self.check_length(text, pipeline.tokenizer, pipeline.tokenizer.model_max_length)
        embeds, _, pooled, _ = pipeline.encode_prompt(
            weighted.text, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        encoders = [
            TextEncoder(tokenizer, encoder, "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED")
            for tokenizer, encoder in (
                (pipeline.tokenizer, pipeline.text_encoder),
                (pipeline.tokenizer_2, pipeline.text_encoder_2),
            )
        ]
        return {
            "prompt_embeds": weight_embeds(pipeline, weighted, embeds, encoders)[0],
            "pooled_prompt_embeds": pooled[0],
        }

    def encode_negative(self, prompt: str) -> Embeddings:
        found = super().encode_negative(prompt)
        if not prompt and self.pipeline.config.force_zeros_for_empty_prompt:
            return {name: value * 0 for name, value in found.items()}
        return found
