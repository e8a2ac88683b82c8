"""Tiny OmniGen."""

from pathlib import Path

from engine.models import GeneratorSpec
from engine.testing.generators.components import enlarge, llama_tokenizer, vae_model


def save_omnigen(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """OmniGen: one transformer for text and image."""
    from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel

    tokenizer = llama_tokenizer()
    transformer = OmniGenTransformer2DModel(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        num_layers=2,
        in_channels=4,
        time_step_dim=4,
        rope_scaling={"long_factor": [1, 2, 3, 4], "short_factor": [1, 2, 3, 4]},
        vocab_size=len(tokenizer) + 4,
        pad_token_id=0,
    )
    OmniGenPipeline(
        transformer=enlarge(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=vae_model(blocks=4),
        tokenizer=tokenizer,
    ).save_pretrained(folder / "pipeline")
    return {}
