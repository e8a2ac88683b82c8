"""Tiny random generators of every real pipeline class, saved as their checkpoints are saved on the Hub: for the contract tests.

`save(name, folder)` writes the generator that a registry entry names, and the models its reference modes take, and gives
the arguments with which `generator_spec` finds them. Weights are large enough that every input shows in the pixels.
"""

import json
import string
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.testing.models import (
    byte_alphabet,
    clip_text,
    clip_tokenizer,
    save_pipeline,
    sharpen,
    t5_config,
    t5_tokenizer,
)

if find_spec("glide_text2im") is None:  # OpenAI's package is in no index; where it is installed, the tests use it
    sys.path.append(str(Path(__file__).parent / "stand_ins"))

Saved = dict[str, Any]
"""`source` and `auxiliaries` of `generator_spec`."""


def save(name: str, folder: Path) -> Saved:
    """Writes the tiny twin of registry entry `name` into `folder`."""
    import torch

    torch.manual_seed(0)
    return {"source": str(folder / "pipeline"), "auxiliaries": BUILDERS[name](folder)}


def _loud(module: Any, factor: float = 4.0) -> Any:
    """Larger matrices, so that texts and references are not lost among the rounding errors."""
    return sharpen(module, factor)


def _t5() -> tuple[Any, Any]:
    from transformers import T5EncoderModel

    tokenizer = t5_tokenizer()
    return tokenizer, T5EncoderModel(t5_config(tokenizer, width=32)).eval()


def _clip(projection: int = 0) -> tuple[Any, Any]:
    tokenizer = clip_tokenizer(pad_token="!")
    return tokenizer, _loud(clip_text(tokenizer, projection, width=32))


def _vae(channels: int = 4, blocks: int = 2, scaling: float = 0.18215, shift: float | None = None) -> Any:
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
    _loud(vae.encoder.conv_out, 16)
    return vae


def _tiny_vae(folder: Path, channels: int = 4) -> str:
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(folder)
    return str(folder)


def _wake(controlnet: Any) -> Any:
    """Fresh ControlNets end in convolutions of zeros; without weights there a test of them passes whatever they do."""
    import torch

    with torch.no_grad():
        for name, parameter in controlnet.named_parameters():
            if any(part in name for part in ("controlnet_", "pos_embed_input", "cond_embedding.conv_out")):
                torch.nn.init.normal_(parameter, std=0.5)
    return controlnet


def _unet_controlnet(unet: Any, folder: Path) -> str:
    from diffusers import ControlNetModel

    _wake(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))).save_pretrained(folder)
    return str(folder)


def _image_encoder(folder: Path) -> str:
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
    _loud(CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    return str(folder)


def _unet_ip_adapter(unet: Any, folder: Path) -> Saved:
    """The layout of huggingface.co/h94/IP-Adapter: odd numbers for the cross-attentions."""
    import torch

    inner = unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": torch.randn(4 * inner, 16),
        "image_proj.proj.bias": torch.zeros(4 * inner),
        "image_proj.norm.weight": torch.ones(inner),
        "image_proj.norm.bias": torch.zeros(inner),
    }
    crossing = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for number, module in enumerate(crossing):
        for key in ("to_k_ip", "to_v_ip"):
            state[f"ip_adapter.{2 * number + 1}.{key}.weight"] = torch.randn(module.inner_dim, inner)
    _save_file(state, folder / "adapter" / "sdxl_models" / "ip-adapter_sdxl.safetensors")
    _image_encoder(folder / "adapter" / "sdxl_models" / "image_encoder")
    return {"ip_adapter": str(folder / "adapter"), "image_encoder": str(folder / "adapter")}


def _save_file(state: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def save_mini(folder: Path) -> Saved:
    """The class of the miniature generator."""
    from diffusers import UNet2DConditionModel

    save_pipeline(folder / "pipeline")
    unet = UNet2DConditionModel.from_pretrained(folder / "pipeline" / "unet")
    return {"controlnet": _unet_controlnet(unet, folder / "controlnet")}


def save_sd21(folder: Path) -> Saved:
    """Stable Diffusion 2: v-prediction, one CLIP text encoder."""
    from diffusers import UNet2DConditionModel

    save_pipeline(folder / "pipeline")
    unet = UNet2DConditionModel.from_pretrained(folder / "pipeline" / "unet")
    return {"controlnet": _unet_controlnet(unet, folder / "controlnet"), "tiny_vae": _tiny_vae(folder / "tiny_vae")}


_XL_UNET: dict[str, Any] = {
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


def _xl_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**_XL_UNET)


def save_sdxl(folder: Path) -> Saved:
    """Stable Diffusion XL: two text encoders, size conditioning."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    (tokenizer, text), (tokenizer_2, text_2), unet = _clip(), _clip(32), _xl_unet()
    StableDiffusionXLPipeline(
        vae=_vae(scaling=0.13025),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    ).save_pretrained(folder / "pipeline")
    return {
        "controlnet": _unet_controlnet(unet, folder / "controlnet"),
        "tiny_vae": _tiny_vae(folder / "tiny_vae"),
        **_unet_ip_adapter(unet, folder),
    }


def save_sdxl_lightning(folder: Path) -> Saved:
    """The same with the UNet of a file of its own."""
    saved = save_sdxl(folder)
    _save_file(_xl_unet().state_dict(), folder / "lightning" / "sdxl_lightning_4step_unet.safetensors")
    return {**saved, "unet": str(folder / "lightning")}


def save_sd3(folder: Path) -> Saved:
    """Stable Diffusion 3: three text encoders, a rectified-flow transformer."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3ControlNetModel,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    (tokenizer, text), (tokenizer_2, text_2), (tokenizer_3, text_3) = _clip(32), _clip(32), _t5()
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
    _loud(transformer, 2)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling=1.5305, shift=0.0609),
        text_encoder=text,
        tokenizer=tokenizer,
        text_encoder_2=text_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_3,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder / "pipeline")
    controlnet = SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0)
    _wake(controlnet).save_pretrained(folder / "controlnet")
    return {"controlnet": str(folder / "controlnet"), "tiny_vae": _tiny_vae(folder / "tiny_vae")}


def _flux_transformer(guidance: bool) -> Any:
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
    return _loud(transformer, 2)


def _save_flux(folder: Path, transformer: Any, pipeline: str = "FluxPipeline") -> None:
    import diffusers

    (tokenizer, text), (tokenizer_2, text_2) = _clip(), _t5()
    getattr(diffusers, pipeline)(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=transformer.config.guidance_embeds),
        vae=_vae(scaling=0.3611, shift=0.1159),
        text_encoder=text,
        tokenizer=tokenizer,
        text_encoder_2=text_2,
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder / "pipeline")


def _redux(folder: Path) -> str:
    from diffusers import FluxPriorReduxPipeline
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    FluxPriorReduxPipeline(
        image_encoder=_loud(SiglipVisionModel(config), 6),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        image_embedder=_loud(ReduxImageEncoder(redux_dim=16, txt_in_features=32), 8),
    ).save_pretrained(folder)
    return str(folder)


def save_flux(folder: Path) -> Saved:
    """FLUX.1 dev: guidance is an input of the transformer."""
    import torch
    from diffusers import FluxControlNetModel

    transformer = _flux_transformer(True)
    _save_flux(folder, transformer)
    controlnet = FluxControlNetModel.from_transformer(
        transformer, num_layers=1, num_single_layers=0, attention_head_dim=16, num_attention_heads=2
    )
    _wake(controlnet).save_pretrained(folder / "controlnet")
    state = {
        "image_proj.proj.weight": torch.randn(4 * 32, 16),
        "image_proj.proj.bias": torch.zeros(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }
    for key in ("to_k_ip", "to_v_ip"):
        state |= {f"ip_adapter.0.{key}.weight": torch.randn(32, 32), f"ip_adapter.0.{key}.bias": torch.zeros(32)}
    _save_file(state, folder / "adapter" / "ip_adapter.safetensors")
    return {
        "controlnet": str(folder / "controlnet"),
        "ip_adapter": str(folder / "adapter"),
        "image_encoder": _image_encoder(folder / "image_encoder"),
        "redux": _redux(folder / "redux"),
        "tiny_vae": _tiny_vae(folder / "tiny_vae"),
    }


def save_flux_schnell(folder: Path) -> Saved:
    """FLUX.1 schnell: no guidance."""
    _save_flux(folder, _flux_transformer(False))
    return {"redux": _redux(folder / "redux"), "tiny_vae": _tiny_vae(folder / "tiny_vae")}


def save_flux_kontext(folder: Path) -> Saved:
    """FLUX.1 Kontext: the reference's latents beside the noise."""
    _save_flux(folder, _flux_transformer(True), "FluxKontextPipeline")
    return {"tiny_vae": _tiny_vae(folder / "tiny_vae")}


def _qwen_tokenizer() -> Any:
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


def save_flux2_klein(folder: Path) -> Saved:
    """FLUX.2 klein: hidden states 9, 18 and 27 of a Qwen3, distilled."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=28,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
    )
    _loud(vae.encoder.conv_out, 16)
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(config).eval(),
        tokenizer=tokenizer,
        transformer=_loud(transformer, 2),
        is_distilled=True,
    ).save_pretrained(folder / "pipeline")
    return {}


def _llama_tokenizer(**named: Any) -> Any:
    from transformers import LlamaTokenizer

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.printable[:95]]
    return LlamaTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=[],
        pad_token="</s>",
        **named,
    )


def save_omnigen(folder: Path) -> Saved:
    """OmniGen: a language model that draws."""
    from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel

    tokenizer = _llama_tokenizer()
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
        transformer=_loud(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=_vae(blocks=4),
        tokenizer=tokenizer,
    ).save_pretrained(folder / "pipeline")
    return {}


def save_qwen_image_edit(folder: Path) -> Saved:
    """Qwen-Image-Edit-Plus: a Qwen2.5-VL reads text and reference, a transformer draws."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = _qwen_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000000.0},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [0],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    pixels = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 64, "max_pixels": 4096}
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(**pixels), tokenizer, Qwen2VLVideoProcessor(**pixels))
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    _loud(vae.encoder.conv_out, 100)
    QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=_loud(Qwen2_5_VLForConditionalGeneration(config).eval()),
        tokenizer=tokenizer,
        processor=processor,
        transformer=_loud(transformer, 2),
    ).save_pretrained(folder / "pipeline")
    return {}


def emu2_config(tokenizer: Any) -> dict[str, Any]:
    """`multimodal_encoder/config.json`: the fields of the real one, small."""
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
    """Names of the weights in the real `multimodal_encoder`: the modules of its published code, which the files are saved from.

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


def save_emu2(folder: Path) -> Saved:
    """Emu2-Gen in the Hub's layout: the encoder in two files under the names of the real one, the variant `bf16` of UNet and VAE."""
    import torch
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    from engine.models.emu2 import KEYS, Emu2Encoder

    tokenizer = _llama_tokenizer(add_bos_token=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[/IMG]", "<image>"]})
    config = emu2_config(tokenizer)
    encoder = _loud(Emu2Encoder(config))
    theirs = {mine: name for name, mine in KEYS.items()}
    state = {}
    for name, value in encoder.state_dict().items():
        begin = next(begin for begin in theirs if name.startswith(begin))
        state[theirs[begin] + name.removeprefix(begin)] = value + 0.1 * torch.randn_like(value)
    state["model.decoder.lm.lm_head.weight"] = torch.zeros(len(tokenizer), 32)
    place = folder / "pipeline" / "multimodal_encoder"
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        _save_file({name: state[name] for name in part}, place / f"model.bf16-{number:05}-of-00002.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "EmuVisualGenerationPipeline"}))
    tokenizer.save_pretrained(folder / "pipeline" / "tokenizer")
    EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    ).save_pretrained(folder / "pipeline" / "scheduler")
    unet = UNet2DConditionModel(**{**_XL_UNET, "cross_attention_dim": 16, "projection_class_embeddings_input_dim": 64})
    unet.save_pretrained(folder / "pipeline" / "unet", variant="bf16")
    _vae(scaling=0.13025).save_pretrained(folder / "pipeline" / "vae", variant="bf16")
    return {"tiny_vae": _tiny_vae(folder / "tiny_vae")}


GLIDE_OPTIONS: dict[str, Any] = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "text_ctx": 32,
    "xf_width": 16,
    "xf_layers": 1,
    "xf_heads": 2,
}


def save_glide(folder: Path) -> Saved:
    """GLIDE of 8 and 16 pixels; the package's zeros and unset numbers become random ones."""
    import torch
    from glide_text2im.model_creation import (
        create_model_and_diffusion,
        model_and_diffusion_defaults,
        model_and_diffusion_defaults_upsampler,
    )

    defaults = model_and_diffusion_defaults(), model_and_diffusion_defaults_upsampler()
    sizes = ({"image_size": 8, "channel_mult": "1"}, {"image_size": 16, "channel_mult": "1,1"})
    for stage, default, size in zip(("base", "upsampler"), defaults, sizes, strict=True):
        options = GLIDE_OPTIONS | size | {"attention_resolutions": "4"}
        model, _ = create_model_and_diffusion(**default | options | {"use_fp16": False})
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        _save_file(model.state_dict(), folder / "pipeline" / stage / "model.safetensors")
        (folder / "pipeline" / stage / "config.json").write_text(json.dumps(options))
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "GlidePipeline"}))
    return {}


BUILDERS: dict[str, Callable[[Path], Saved]] = {
    "mini": save_mini,
    "sd21": save_sd21,
    "sdxl": save_sdxl,
    "sdxl-turbo": save_sdxl,
    "sdxl-lightning": save_sdxl_lightning,
    "sd3": save_sd3,
    "sd35": save_sd3,
    "flux": save_flux,
    "flux-schnell": save_flux_schnell,
    "flux-kontext": save_flux_kontext,
    "flux2-klein": save_flux2_klein,
    "omnigen": save_omnigen,
    "qwen-image-edit": save_qwen_image_edit,
    "emu2": save_emu2,
    "glide": save_glide,
}
"""Registry entry → what writes its tiny twin; entries of one class share a builder."""
