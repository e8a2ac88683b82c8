"""Tiny FLUX.1 and FLUX.1 Kontext."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine.models import GeneratorSpec
from engine.testing.generators.components import (
    clip,
    enlarge,
    image_projection,
    randomize_zeros,
    save_auxiliaries,
    save_image_encoder,
    save_tiny_vae,
    save_weights,
    t5,
    vae_model,
)


def save_flux(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """FLUX.1 and Kontext; guidance is an input of the transformer unless the entry's `guidance_scale` is 0."""
    import diffusers

    transformer = _transformer(guidance=spec.guidance_scale > 0)
    (tokenizer, text), (tokenizer_2, text_2) = clip(), t5()
    getattr(diffusers, spec.pipeline)(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=transformer.config.guidance_embeds),
        vae=vae_model(scaling=0.3611, shift=0.1159),
        text_encoder=text,
        tokenizer=tokenizer,
        text_encoder_2=text_2,
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder / "pipeline")
    savers: dict[str, Callable[[Path], object]] = {
        "controlnet": partial(_save_controlnet, transformer),
        "ip_adapter": _save_ip_adapter,
        "image_encoder": save_image_encoder,
        "redux": _save_redux,
        "tiny_vae": save_tiny_vae,
    }
    return save_auxiliaries(savers, folder, spec)


def _transformer(guidance: bool) -> Any:
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    return enlarge(transformer, 2)


def _save_controlnet(transformer: Any, folder: Path) -> None:
    from diffusers import FluxControlNetModel

    controlnet = FluxControlNetModel.from_transformer(
        transformer, num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2
    )
    randomize_zeros(controlnet).save_pretrained(folder)


def _save_ip_adapter(path: Path) -> None:
    """The layout of huggingface.co/XLabs-AI/flux-ip-adapter-v2."""
    import torch

    state = image_projection(32)
    for key in ("to_k_ip", "to_v_ip"):
        state |= {f"ip_adapter.0.{key}.weight": torch.randn(32, 32), f"ip_adapter.0.{key}.bias": torch.zeros(32)}
    save_weights(state, path)


def _save_redux(folder: Path) -> None:
    from diffusers import FluxPriorReduxPipeline
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    FluxPriorReduxPipeline(
        image_encoder=enlarge(SiglipVisionModel(config), 6),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        image_embedder=enlarge(ReduxImageEncoder(redux_dim=16, txt_in_features=32), 8),
    ).save_pretrained(folder)
