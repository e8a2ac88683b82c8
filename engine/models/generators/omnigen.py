"""OmniGen."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np

from engine.models.generators.adapter import PipelineAdapter, ReferenceModels
from engine.models.generators.prompt_cache import PromptCache
from engine.models.references import fit
from engine.recipe import Recipe

_PLACEHOLDER = "<img><|image_1|></img> "
"""Stands for the reference image in a prompt."""


class OmniGen(PipelineAdapter):
    """OmniGen: one transformer reads text and reference together; `reference_scale` is its image guidance scale."""

    pipeline_name = "OmniGenPipeline"
    architecture = "AR"
    mode_pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)
    supports_native_scale = True
    limits_prompts = False

    @property
    def multiple_of(self) -> int:
        return super().multiple_of * int(self.pipeline.transformer.config.patch_size)

    @property
    def supports_negative_prompts(self) -> bool:
        return False

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if "<|image_" in recipe.prompt:
            raise ValueError("the prompt contains OmniGen's placeholder for an image (<|image_…|>); remove it")

    def batch_key(self, recipe: Recipe, mode: str) -> Hashable:
        """The number of text tokens: the pipeline uses the positions of the first prompt for the whole batch."""
        processor = self.pipeline.multimodal_processor
        (prompt,) = self._prompts([recipe], mode)
        text = processor.add_prefix_instruction(prompt)
        return sum(len(processor.text_tokenizer(part).input_ids) for part in text.split("<|image_1|>"))

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        return {"prompt": self._prompts(recipes, mode)}

    def _prompts(self, recipes: Sequence[Recipe], mode: str) -> list[str]:
        return [(_PLACEHOLDER if mode else "") + prompt for prompt in self.prompts(recipes)]

    def add_reference(
        self,
        arguments: dict[str, Any],
        mode: str,
        images: Sequence[np.ndarray],
        recipe: Recipe,
        models: ReferenceModels,
    ) -> None:
        arguments["input_images"] = [[fit(image, recipe.height, recipe.width)] for image in images]
        arguments["max_input_image_size"] = max(recipe.height, recipe.width)
        arguments["img_guidance_scale"] = recipe.reference_scale
