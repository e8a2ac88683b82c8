"""Full-size models with random weights, built on the spot: speed does not depend on what the weights say."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.generate import UNETS, build
from engine.testing.models import save_encoder, save_pipeline


def save_sd21(folder: Path, tiny: bool, device: str) -> Path:
    """Writes Stable Diffusion 2.1 as a diffusers folder, with the miniature world's tokenizer."""
    if tiny:
        return save_pipeline(folder)
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from engine.models.registry import generator_entries, resolve_source

    parts = build("sd21", tiny, device, torch.float16)
    source = Path(resolve_source(generator_entries()["mini"]["source"]))
    tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer", model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=UNETS["sd21"]["cross_attention_dim"],
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device(device):
        text: Any = CLIPTextModel(config)
    pipeline: Any = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=text.to(torch.float16),
        tokenizer=tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_vit_b_32(folder: Path, tiny: bool) -> Path:
    """Writes CLIP ViT-B/32 as an open_clip folder, with the tokenizer of the tiny one."""
    import json

    import open_clip
    from safetensors.torch import save_file

    save_encoder(folder)
    if tiny:
        return folder
    config = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
    small = config["model_cfg"]["text_cfg"]
    config["model_cfg"] = open_clip.get_model_config("ViT-B-32") | {"text_cfg": small}
    (folder / "open_clip_config.json").write_text(json.dumps(config), "utf-8")
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
