"""Stable Diffusion 3 and 3.5."""

from typing import ClassVar

from engine.models.generators.adapter import PipelineAdapter
from engine.models.generators.prompt_cache import Embeddings


class StableDiffusion3(PipelineAdapter):
    """Stable Diffusion 3 and 3.5. IP-Adapter is left out, since the pipeline takes one reference per batch."""

    pipeline_name = "StableDiffusion3Pipeline"
    mode_pipelines: ClassVar = {
        "controlnet": "StableDiffusion3ControlNetPipeline",
        "img2img": "StableDiffusion3Img2ImgPipeline",
    }
    controlnet_model = "SD3ControlNetModel"

    @property
    def multiple_of(self) -> int:
        return super().multiple_of * int(self.pipeline.transformer.config.patch_size)

    def encode(self, prompt: str) -> Embeddings:
        pipeline = self.pipeline
        if pipeline.text_encoder_3 is not None:  # CLIP reads the beginning of the prompt, T5 all of it
            self.check_length(prompt, pipeline.tokenizer_3, 256)
        else:
            self.check_length(prompt, pipeline.tokenizer, pipeline.tokenizer.model_max_length)
        found = pipeline.encode_prompt(
            [prompt], [prompt], [prompt], device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": found[0][0], "pooled_prompt_embeds": found[2][0]}
