"""Tiny Stable Diffusion 2 and XL."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.models import GeneratorSpec
from engine.testing.generators.components import (
    clip,
    save_auxiliaries,
    save_image_encoder,
    save_tiny_vae,
    save_unet_controlnet,
    save_unet_ip_adapter,
    save_weights,
    vae_model,
)
from engine.testing.models import save_pipeline


def save_stable_diffusion(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """Stable Diffusion 2: v-prediction, one CLIP text encoder."""
    from diffusers import UNet2DConditionModel

    save_pipeline(folder / "pipeline")
    unet = UNet2DConditionModel.from_pretrained(folder / "pipeline" / "unet")
    return save_auxiliaries(_auxiliaries(unet), folder, spec)


XL_UNET: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "cross_attention_dim": 64,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 80,
}
"""Arguments of `UNet2DConditionModel` for the architecture of Stable Diffusion XL."""


def save_stable_diffusion_xl(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """Stable Diffusion XL: two text encoders, size conditioning, and the UNet of another source if the entry has one."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    (tokenizer, text), (tokenizer_2, text_2), unet = clip(), clip(32), UNet2DConditionModel(**XL_UNET)
    StableDiffusionXLPipeline(
        vae=vae_model(scaling=0.13025),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    ).save_pretrained(folder / "pipeline")
    return save_auxiliaries(_auxiliaries(unet) | {"unet": _save_other_unet}, folder, spec)


def _save_other_unet(path: Path) -> None:
    from diffusers import UNet2DConditionModel

    save_weights(UNet2DConditionModel(**XL_UNET).state_dict(), path)


def _auxiliaries(unet: Any) -> dict[str, Callable[[Path], object]]:
    return {
        "controlnet": partial(save_unet_controlnet, unet),
        "tiny_vae": save_tiny_vae,
        "ip_adapter": partial(save_unet_ip_adapter, unet),
        "image_encoder": save_image_encoder,
    }
