"""FLUX.2 klein."""

from collections.abc import Sequence
from typing import Any, ClassVar

from engine.models.generators.adapter import PipelineAdapter
from engine.models.generators.prompt_cache import Embeddings
from engine.recipe import Recipe


class Flux2Klein(PipelineAdapter):
    """FLUX.2 klein; the distilled models have no guidance and so no negative prompt."""

    pipeline_name = "Flux2KleinPipeline"
    mode_pipelines: ClassVar = {"native": ""}
    own_modes = ("native",)

    def __init__(self, name: str, pipeline: Any, device: str):
        super().__init__(name, pipeline, device)
        prepare = pipeline.prepare_image_latents

        def prepare_each(images: Sequence[Any], batch_size: int, **rest: Any) -> tuple[Any, ...]:
            """One reference per image; the pipeline would show all of them to every image."""
            import torch

            found = [prepare(images=[image], batch_size=1, **rest) for image in images]
            return tuple(torch.cat(column) for column in zip(*found, strict=True))

        pipeline.prepare_image_latents = prepare_each

    @property
    def supports_guidance(self) -> bool:
        return not self.pipeline.config.is_distilled

    @property
    def supports_negative_prompts(self) -> bool:
        return self.supports_guidance

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.guidance_scale > 1 and not self.supports_guidance:
            raise ValueError(f"generator {self.name} does not support guidance; set guidance_scale to 1")
        if recipe.reference_id and min(recipe.height, recipe.width) < 64:
            raise ValueError(
                f"generator {self.name} takes references for images of 64 pixels per side or more; raise height and width"
            )

    def encode(self, prompt: str) -> Embeddings:
        self.check_length(prompt, self.pipeline.tokenizer, self.pipeline.tokenizer_max_length)
        return {"prompt_embeds": self.pipeline.encode_prompt([prompt], device=self.device)[0][0]}
