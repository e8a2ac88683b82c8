"""GLIDE (Nichol et al. 2021, arXiv 2112.10741)."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.models.generators.adapter import PipelineAdapter
from engine.models.generators.prompt_cache import PromptCache
from engine.recipe import Recipe

if TYPE_CHECKING:
    import torch


class Glide(PipelineAdapter):
    """GLIDE: a base model and an upsampler, each of one size, without reference images."""

    pipeline_name = "GlidePipeline"
    module = "engine.models.generators.glide_pipeline"
    architecture = "U-Net"
    denoiser_name = "base"
    own_modes = ()
    dtypes = ("float32", "float16")

    @classmethod
    def check_available(cls, name: str, is_local: bool) -> None:
        if find_spec("glide_text2im") is None:
            raise ValueError(
                f"generator {name} needs OpenAI's package glide_text2im, which is not on PyPI; "
                "install it with: pip install git+https://github.com/openai/glide-text2im"
            )
        if not is_local:
            raise ValueError(
                f"generator {name} has no weights on the Hub; convert base.pt and upsample.pt of github.com/openai/glide-text2im "
                "with `imagefoundry convert-glide`, and give the folder as the generator's source"
            )

    @classmethod
    def native_size(cls, folder: Path) -> dict[str, Any]:
        try:
            side = json.loads((folder / "upsampler" / "config.json").read_text()).get("image_size", 256)
        except (OSError, ValueError):
            return {}
        return {"height": side, "width": side}

    @property
    def multiple_of(self) -> int:
        return int(self.pipeline.image_size)

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        side = self.pipeline.image_size
        if (recipe.height, recipe.width) != (side, side):
            raise ValueError(f"generator {self.name} generates {side} x {side} pixels only; set that size")
        for prompt in (recipe.prompt, recipe.negative_prompt):
            self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.max_prompt_tokens)

    def preview(self, latents: "torch.Tensor", recipe: Recipe) -> "torch.Tensor":
        from torch.nn.functional import interpolate

        return interpolate(latents.float() / 2 + 0.5, (recipe.height, recipe.width))  # the base model's are smaller

    def text(self, recipes: Sequence[Recipe], cache: PromptCache, mode: str) -> dict[str, Any]:
        return {"prompt": self.prompts(recipes), "negative_prompt": self.negative_prompts(recipes)}
