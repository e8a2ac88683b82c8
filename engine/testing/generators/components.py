"""Components that several tiny generators share: text encoders, tokenizers, VAEs, ControlNets and adapters."""

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.models import GeneratorSpec
from engine.testing.models import byte_alphabet, clip_text, clip_tokenizer, sharpen, t5_config, t5_tokenizer


def enlarge(module: Any, factor: float = 4.0) -> Any:
    """The module with its matrices multiplied by `factor`, in evaluation mode.

    As initialised, texts and references would change pixels by less than rounding errors.
    """
    return sharpen(module, factor)


def t5() -> tuple[Any, Any]:
    """A T5 tokenizer and its encoder of width 32."""
    from transformers import T5EncoderModel

    tokenizer = t5_tokenizer()
    return tokenizer, T5EncoderModel(t5_config(tokenizer, width=32)).eval()


def clip(projection: int = 0) -> tuple[Any, Any]:
    """A CLIP tokenizer and its text encoder of width 32; `projection` is the length of pooled embeddings, 0 for no projection."""
    tokenizer = clip_tokenizer(pad_token="!")
    return tokenizer, enlarge(clip_text(tokenizer, projection, width=32))


def vae_model(channels: int = 4, blocks: int = 2, scaling: float = 0.18215, shift: float | None = None) -> Any:
    """A VAE with latents of `channels` channels that halves images `blocks - 1` times; a `shift` leaves out the quant convolutions."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    )
    enlarge(vae.encoder.conv_out, 16)
    return vae


def save_tiny_vae(folder: Path, channels: int = 4) -> None:
    """Writes the VAE of speed `lossy`."""
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder)


def randomize_zeros(controlnet: Any) -> Any:
    """Random weights in the convolutions of zeros that a new ControlNet ends in, where it would have no effect."""
    import torch

    with torch.no_grad():
        for name, parameter in controlnet.named_parameters():
            if any(part in name for part in ("controlnet_", "pos_embed_input", "cond_embedding.conv_out")):
                torch.nn.init.normal_(parameter, std=0.5)
    return controlnet


def save_auxiliaries(
    savers: Mapping[str, Callable[[Path], object]], folder: Path, spec: GeneratorSpec
) -> dict[str, str]:
    """Writes the auxiliaries that the entry names, each into a folder of its purpose, and returns purpose → folder.

    Args:
        savers: purpose → function that writes the model to its folder, or to the file that the entry names; called in order.
        folder: folder of all auxiliaries.
        spec: the entry.
    """
    named = [purpose for purpose in savers if purpose in spec.auxiliaries]
    for purpose in named:
        auxiliary = spec.auxiliaries[purpose]
        savers[purpose](folder / purpose / auxiliary.subfolder / auxiliary.weights)
    return {purpose: str(folder / purpose) for purpose in named}


def save_unet_controlnet(unet: Any, folder: Path) -> None:
    """Writes a ControlNet of a UNet."""
    from diffusers import ControlNetModel

    randomize_zeros(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))).save_pretrained(folder)


def save_image_encoder(folder: Path) -> None:
    """Writes the CLIP image encoder of an IP-Adapter, with embeddings of length 16."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=16,
    )
    enlarge(CLIPVisionModelWithProjection(config)).save_pretrained(folder)


def image_projection(width: int) -> dict[str, Any]:
    """The part of an IP-Adapter's weights that projects image embeddings of length 16 to four tokens of length `width`."""
    import torch

    return {
        "image_proj.proj.weight": torch.randn(4 * width, 16),
        "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }


def save_unet_ip_adapter(unet: Any, path: Path) -> None:
    """Writes an IP-Adapter of a UNet. As in huggingface.co/h94/IP-Adapter, cross-attentions have odd numbers."""
    import torch

    inner = unet.config.cross_attention_dim
    state = image_projection(inner)
    crossing = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for number, module in enumerate(crossing):
        for key in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * number + 1}.{key}.weight"] = torch.randn(module.inner_dim, inner)
    save_weights(state, path)


def save_weights(state: dict[str, Any], path: Path) -> None:
    """Writes tensors to a safetensors file, and the folders above it."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def qwen_tokenizer() -> Any:
    """A Qwen tokenizer of single bytes."""
    from transformers import Qwen2Tokenizer

    special = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ]
    letters = byte_alphabet()
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate([*letters, *special])},
        merges=[],
        additional_special_tokens=special[1:],
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def llama_tokenizer(**named: Any) -> Any:
    """A LLaMA tokenizer of single bytes and printable characters; `named` are further arguments of its class."""
    from transformers import LlamaTokenizer

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.printable[:95]]
    return LlamaTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=[],
        pad_token="</s>",
        **named,
    )
