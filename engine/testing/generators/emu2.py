"""Tiny Emu2-Gen."""

import json
from pathlib import Path
from typing import Any

from engine.models import GeneratorSpec
from engine.testing.generators.components import (
    enlarge,
    llama_tokenizer,
    save_auxiliaries,
    save_tiny_vae,
    save_weights,
    vae_model,
)
from engine.testing.generators.stable_diffusion import XL_UNET


def emu2_config(tokenizer: Any) -> dict[str, Any]:
    """`multimodal_encoder/config.json` with the fields of the real one and small numbers."""
    return {
        "architectures": ["EmuForCausalLM"],
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "pad_token_id": 0,
        "d_model": 16,
        "vision_config": {
            "image_size": 32,
            "patch_size": 8,
            "width": 16,
            "layers": 2,
            "head_width": 8,
            "mlp_ratio": 2.0,
            "qkv_bias": True,
            "postnorm": True,
            "layer_norm_eps": 1e-6,
            "n_query": 4,
        },
    }


def emu2_keys(vision_layers: int, layers: int) -> set[str]:
    """Names of the weights in a real `multimodal_encoder` of so many layers, by the modules of its published code.

    Source: Emu2/emu/eva_vit.py, emu.py and the Hub's modeling_emu.py (github.com/baaivision/Emu, 2026-11-21).
    """
    ends = ("weight", "bias")
    block = [f"{part}.{end}" for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2") for end in ends]
    block += ["attn.qkv.weight", "attn.q_bias", "attn.v_bias"]
    layer = [f"self_attn.{part}_proj.weight" for part in "qkvo"]
    layer += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    layer += ["input_layernorm.weight", "post_attention_layernorm.weight"]
    return {
        "project_up.weight",
        "project_down.weight",
        *(
            f"model.visual.{name}"
            for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
        ),
        *(f"model.visual.blocks.{number}.{name}" for number in range(vision_layers) for name in block),
        *(f"model.decoder.lm.{name}.weight" for name in ("lm_head", "model.embed_tokens", "model.norm")),
        *(f"model.decoder.lm.model.layers.{number}.{name}" for number in range(layers) for name in layer),
    }


def save_emu2(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """Emu2-Gen in the Hub's layout: an encoder of two files with the real weight names, a UNet and a VAE of variant `bf16`."""
    import torch
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    from engine.models.generators.emu2_pipeline import WEIGHT_PREFIXES, Emu2Encoder

    tokenizer = llama_tokenizer(add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[/IMG]", "<image>"]})
    config = emu2_config(tokenizer)
    encoder = enlarge(Emu2Encoder(config))
    theirs = {mine: name for name, mine in WEIGHT_PREFIXES.items()}
    state = {}
    for name, value in encoder.state_dict().items():
        begin = next(begin for begin in theirs if name.startswith(begin))
        state[theirs[begin] + name.removeprefix(begin)] = value + 0.1 * torch.randn_like(value)
    state["model.decoder.lm.lm_head.weight"] = torch.zeros(len(tokenizer), 32)
    place = folder / "pipeline" / "multimodal_encoder"
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_weights({name: state[name] for name in part}, place / f"model.bf16-{number:05}-of-00002.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "EmuVisualGenerationPipeline"}))
    tokenizer.save_pretrained(folder / "pipeline" / "tokenizer")
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    ).save_pretrained(folder / "pipeline" / "scheduler")
    unet = UNet2DConditionModel(**{**XL_UNET, "cross_attention_dim": 16, "projection_class_embeddings_input_dim": 64})
    unet.save_pretrained(folder / "pipeline" / "unet", variant="bf16")
    vae_model(scaling=0.13025).save_pretrained(folder / "pipeline" / "vae", variant="bf16")
    return save_auxiliaries({"tiny_vae": save_tiny_vae}, folder, spec)
