"""Tiny Stable Diffusion 3."""

from pathlib import Path

from engine.models import GeneratorSpec
from engine.testing.generators.components import (
    clip,
    enlarge,
    randomize_zeros,
    save_auxiliaries,
    save_tiny_vae,
    t5,
    vae_model,
)


def save_stable_diffusion_3(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """Stable Diffusion 3: three text encoders, a rectified-flow transformer."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3ControlNetModel,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    (tokenizer, text), (tokenizer_2, text_2), (tokenizer_3, text_3) = clip(32), clip(32), t5()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    enlarge(transformer, 2)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae_model(scaling=1.5305, shift=0.0609),
        text_encoder=text,
        tokenizer=tokenizer,
        text_encoder_2=text_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_3,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder / "pipeline")

    def save_controlnet(path: Path) -> None:
        controlnet = SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0)
        randomize_zeros(controlnet).save_pretrained(path)

    return save_auxiliaries({"controlnet": save_controlnet, "tiny_vae": save_tiny_vae}, folder, spec)
