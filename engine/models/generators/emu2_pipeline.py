"""The pipeline of Emu2-Gen (Sun et al. 2023, arXiv 2312.13286): a language model continues text and images with visual
embeddings, and a UNet decodes them to an image.

The components are the libraries': timm's EVA tower, transformers' LLaMA, diffusers' UNet, VAE and scheduler. The code between
them is remote code on the Hub, which transformers 5 no longer runs; so it is written here, and no code is fetched. Names and
shapes of the weights follow huggingface.co/BAAI/Emu2-Gen (configurations and file sizes, commit a41a2dc) and
github.com/baaivision/Emu (2026-11-21). Importing this module takes seconds, so only loading an Emu2 imports it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    ImagePipelineOutput,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from timm.models.eva import Eva
from torch.nn.functional import avg_pool2d
from transformers import AutoTokenizer, CLIPImageProcessor, LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from engine.models.weights import check_weights

if TYPE_CHECKING:
    from PIL import Image

BEGIN, TOKEN, END = "[IMG]", "<image>", "[/IMG]"
"""Tokens before an image, in the place of each of its embeddings, and after it."""

WEIGHT_PREFIXES = {
    "model.visual.": "visual.",
    "model.decoder.lm.model.": "language.",
    "project_up.": "project_up.",
    "project_down.": "project_down.",
}
"""Prefix of a weight's name in the checkpoint → in `Emu2Encoder`; the text head is left out."""


class Emu2Encoder(torch.nn.Module):
    """The vision tower, the language model, and a projection in each direction."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        vision, width, hidden = config["vision_config"], config["d_model"], config["hidden_size"]
        self.num_tokens: int = vision["n_query"]
        self.image_size: int = vision["image_size"]
        self.max_positions: int = config["max_position_embeddings"]
        self.visual = Eva(
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            embed_dim=width,
            depth=vision["layers"],
            num_heads=width // vision["head_width"],
            mlp_ratio=vision["mlp_ratio"],
            qkv_bias=vision["qkv_bias"],
            use_post_norm=vision["postnorm"],
            norm_layer=partial(torch.nn.LayerNorm, eps=vision["layer_norm_eps"]),
            num_classes=0,
            global_pool="",
            use_post_transformer_norm=False,
        )
        self.language = LlamaModel(_language_config(config))
        self.project_up = torch.nn.Linear(width, hidden, bias=False)
        self.project_down = torch.nn.Linear(hidden, width, bias=False)

    @classmethod
    def from_pretrained(cls, folder: Path, dtype: torch.dtype) -> "Emu2Encoder":
        """Reads `config.json` and the safetensors of a checkpoint.

        Raises:
            ValueError: pickled or missing weights.
        """
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text())
        with torch.device("meta"):  # no memory until the weights are loaded
            encoder = cls(config)
        encoder.language.rotary_emb = LlamaRotaryEmbedding(_language_config(config))  # computed, so it is in no file
        for block in encoder.visual.blocks:
            attention: Any = block.attn
            attention.k_bias = torch.zeros_like(attention.k_bias, device="cpu", dtype=dtype)  # EVA's keys have no bias
        for path in check_weights(folder):
            state = {renamed(name): tensor.to(dtype) for name, tensor in load_file(path).items() if renamed(name)}
            encoder.load_state_dict(state, strict=False, assign=True)
        missing = [name for name, parameter in encoder.named_parameters() if parameter.is_meta]
        if missing:
            raise ValueError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}; download it again")
        return encoder.eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the weights."""
        return self.project_up.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.project_up.weight.device

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, num_tokens, D]` of normalised pixels `[B, 3, H, W]`: the tower's patches, averaged over squares."""
        patches = self.visual.forward_features(pixels)[:, 1:].transpose(1, 2)
        side = round(patches.shape[2] ** 0.5)
        squares = avg_pool2d(patches.unflatten(2, (side, side)), side // round(self.num_tokens**0.5))
        return squares.flatten(2).transpose(1, 2)

    def generate_embeddings(self, inputs: torch.Tensor) -> torch.Tensor:
        """The `num_tokens` visual embeddings `[1, num_tokens, D]` after the inputs `[1, T, hidden]`, generated autoregressively."""
        found: list[torch.Tensor] = []
        cache = None
        while len(found) < self.num_tokens:
            output = self.language(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            found.append(self.project_down(output.last_hidden_state[:, -1:]))
            inputs = self.project_up(found[-1])
        return torch.cat(found, 1)


def renamed(name: str) -> str:
    """Name in `Emu2Encoder` of a weight of the checkpoint; empty for a weight that generation does not need."""
    return next(
        (mine + name.removeprefix(theirs) for theirs, mine in WEIGHT_PREFIXES.items() if name.startswith(theirs)), ""
    )


def _language_config(config: Mapping[str, Any]) -> LlamaConfig:
    fields = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "pad_token_id",
    )
    return LlamaConfig(**{field: config[field] for field in fields if field in config})


class EmuVisualGenerationPipeline(DiffusionPipeline):
    """Text, or a reference image and text, to an image. The class name is that in the checkpoint's `model_index.json`."""

    image_tokens = (BEGIN, TOKEN, END)

    tokenizer: Any
    multimodal_encoder: Emu2Encoder
    scheduler: Any
    unet: Any
    vae: Any
    progress_bar: Any
    register_modules: Any

    def __init__(
        self,
        tokenizer: Any,
        multimodal_encoder: Emu2Encoder,
        scheduler: Any,
        unet: Any,
        vae: Any,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, multimodal_encoder=multimodal_encoder, scheduler=scheduler, unet=unet, vae=vae
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=2 ** (len(vae.config.block_out_channels) - 1))
        side = {"height": multimodal_encoder.image_size, "width": multimodal_encoder.image_size}
        self._vision_processor = CLIPImageProcessor(size=side, do_center_crop=False)

    @classmethod
    def from_pretrained(
        cls,
        source: str,
        *,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        local_files_only: bool = False,
        **_: Any,
    ) -> "EmuVisualGenerationPipeline":
        """Loads a folder of the Hub's layout, or downloads it first, without code, pickles and the safety checker."""
        if local_files_only:
            folder = Path(source)
        else:
            from huggingface_hub import snapshot_download

            wanted = [
                f"{part}/*.{end}"
                for part in ("tokenizer", "multimodal_encoder", "scheduler", "unet", "vae")
                for end in ("json", "model", "safetensors")
            ]
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
        return cls(
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            Emu2Encoder.from_pretrained(folder / "multimodal_encoder", dtype),
            EulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            _load(UNet2DConditionModel, folder / "unet", dtype),
            _load(AutoencoderKL, folder / "vae", dtype),
        )

    @property
    def image_size(self) -> int:
        """Pixels per side of the vision tower's input."""
        return self.multimodal_encoder.image_size

    @property
    def max_prompt_tokens(self) -> int:
        """Most tokens of a prompt: the language model also needs positions for a reference, its image tokens and an image."""
        return self.multimodal_encoder.max_positions - 2 * self.multimodal_encoder.num_tokens - 3

    @torch.no_grad()
    def encode_prompt(self, prompt: str, image: "Image.Image | None" = None) -> torch.Tensor:
        """The visual embeddings `[1, num_tokens, D]` that the UNet decodes, for a prompt after an optional reference."""
        encoder = self.multimodal_encoder
        seen = BEGIN + TOKEN * encoder.num_tokens + END if image is not None else ""
        tokens = self.tokenizer(seen + prompt + BEGIN, return_tensors="pt").input_ids.to(encoder.device)
        inputs = encoder.language.embed_tokens(tokens)
        if image is not None:
            pixels = self._vision_processor(image, return_tensors="pt").pixel_values.to(encoder.device, encoder.dtype)
            where = tokens == self.tokenizer.convert_tokens_to_ids(TOKEN)
            inputs[where] = encoder.project_up(encoder.encode_image(pixels))[0]
        return encoder.generate_embeddings(inputs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str] | None = None,
        image: "Sequence[Image.Image] | None" = None,
        *,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt: str = "",
        negative_prompt_embeds: torch.Tensor | None = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: list[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
    ) -> ImagePipelineOutput:
        """One image per prompt. Each prompt is encoded alone, with its own reference if `image` is given.

        `prompt_embeds` and `negative_prompt_embeds` `[B, num_tokens, D]` replace texts that were encoded before.
        `callback_on_step_end` is called after each step of the UNet, as diffusers does.
        """
        if prompt_embeds is None:
            references = image if image is not None else [None] * len(prompt or ())
            read = [self.encode_prompt(*pair) for pair in zip(prompt or (), references, strict=True)]
            prompt_embeds = torch.cat(read)
        batch, embeds = len(prompt_embeds), prompt_embeds
        guided = guidance_scale > 1
        if guided:
            if negative_prompt_embeds is None:
                negative_prompt_embeds = self.encode_prompt(negative_prompt).expand(batch, -1, -1)
            embeds = torch.cat([negative_prompt_embeds, embeds])
        embeds = embeds.to(self.unet.device, self.unet.dtype)
        # original size in the decoder's training; no crop; size of the image
        sizes = torch.tensor([[1024, 1024, 0, 0, height, width]], device=embeds.device).expand(len(embeds), -1)
        added = {"text_embeds": embeds.mean(1), "time_ids": sizes}
        self.scheduler.set_timesteps(num_inference_steps, device=embeds.device)
        factor = self.image_processor.config.vae_scale_factor
        shape = (batch, self.unet.config.in_channels, height // factor, width // factor)
        noise = randn_tensor(shape, generator=generator, device=embeds.device, dtype=embeds.dtype)
        latents = noise * self.scheduler.init_noise_sigma
        for number, step in enumerate(self.progress_bar(self.scheduler.timesteps)):
            inputs = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, step)
            predicted = self.unet(inputs, step, encoder_hidden_states=embeds, added_cond_kwargs=added).sample
            if guided:
                away, towards = predicted.chunk(2)
                predicted = away + guidance_scale * (towards - away)
            latents = self.scheduler.step(predicted, step, latents).prev_sample
            if callback_on_step_end:
                callback_on_step_end(self, number, step, {"latents": latents})
        pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return ImagePipelineOutput(images=self.image_processor.postprocess(pixels, output_type=output_type))


def _load(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers model from a folder with one file variant."""
    (name, *_) = sorted(path.name for path in check_weights(folder))
    variant = name.removeprefix("diffusion_pytorch_model").removesuffix("safetensors").strip(".") or None
    return model_class.from_pretrained(folder, dtype=dtype, variant=variant, use_safetensors=True)
