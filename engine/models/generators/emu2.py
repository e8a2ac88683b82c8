"""Emu2-Gen (Sun et al. 2023, arXiv 2312.13286)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from engine.models.generators.adapter import PipelineAdapter, ReferenceModels
from engine.models.generators.prompt_cache import Embeddings, PromptCache
from engine.models.references import fit
from engine.recipe import Recipe


class Emu2(PipelineAdapter):
    """Emu2-Gen: a language model reads text and reference, and a UNet decodes the visual embeddings that it generates."""

    pipeline_name = "EmuVisualGenerationPipeline"
    module = "engine.models.generators.emu2_pipeline"
    architecture = "AR"
    denoiser_name = "unet"
    mode_pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        for prompt in (recipe.prompt, recipe.negative_prompt):
            if token := next((token for token in self.pipeline.image_tokens if token in prompt), ""):
                raise ValueError(f"the prompt contains Emu2's image token {token}; remove it")
            self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.max_prompt_tokens)

    def encode(self, prompt: str) -> Embeddings:
        return {"prompt_embeds": self.pipeline.encode_prompt(prompt)[0]}

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        if not mode:
            return super().text(recipes, cache, mode)
        # a prompt is read together with its reference, so its embeddings cannot be cached
        return {"prompt": self.prompts(recipes), **self.negative_text(recipes, cache)}

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        side = self.pipeline.image_size
        arguments["image"] = [fit(image, side, side) for image in images]
