"""Qwen-Image-Edit."""

from collections.abc import Sequence
from typing import Any, ClassVar

from engine.models.generators.adapter import PipelineAdapter
from engine.models.generators.prompt_cache import PromptCache
from engine.recipe import Recipe


class QwenImageEdit(PipelineAdapter):
    """Qwen-Image-Edit with one reference per image; the pipeline generates one image per call."""

    pipeline_name = "QwenImageEditPlusPipeline"
    mode_pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)
    needs_reference = True
    max_batch = 1
    limits_prompts = False

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {"prompt": self.prompts(recipes)}
        if self.guided(
            recipes[0]
        ):  # the pipeline turns guidance off unless there is a negative prompt, if only a blank
            arguments["negative_prompt"] = [prompt or " " for prompt in self.negative_prompts(recipes)]
        return arguments

    def sampling(self, recipe: Recipe) -> dict[str, Any]:
        arguments = super().sampling(recipe)
        return arguments | {"true_cfg_scale": arguments.pop("guidance_scale")}
