"""Train the text-to-image generator by flow matching and save it as a folder that diffusers opens."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from engine.miniature.autoencoder import GENERATOR_KNOWLEDGE, AutoencoderConfig, to_pixels, train_autoencoder
from engine.miniature.checkpoints import replace_folder
from engine.miniature.corpus import Knowledge, build_corpus, caption_tokens
from engine.miniature.tokenizer import CONTEXT_LENGTH, build_tokenizer, encode
from engine.miniature.training import TrainConfig, Trainer


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The denoiser, its text encoder and their training."""

    knowledge: Knowledge = GENERATOR_KNOWLEDGE
    """Images it is shown."""
    channels: tuple[int, int] = (64, 96)
    """Channels of the denoiser at 8x8 and at 4x4."""
    text_width: int = 64
    """Width of the text encoder."""
    text_layers: int = 2
    """Layers of the text encoder."""
    caption_dropout: float = 0.1
    """Share of captions left out, for classifier-free guidance."""
    steps: int = 4
    """Default sampler steps, written to defaults.json."""
    guidance: float = 4.0
    """Guidance scale that is distilled into the weights."""
    start: Path | None = None
    """Generator folder whose weights the training starts from, its autoencoder kept; random weights otherwise."""
    distil: TrainConfig = field(default_factory=TrainConfig)
    """The training loop of the distillation."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    """The autoencoder, trained first."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop of denoiser and text encoder."""


def build_denoiser(config: GeneratorConfig, vocabulary: int) -> nn.ModuleDict:
    """Untrained `unet` (UNet2DConditionModel) and `text` (CLIPTextModel)."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(config.train.seed)
    size = config.autoencoder.image_size // 4
    unet: Any = UNet2DConditionModel(
        sample_size=size,
        in_channels=config.autoencoder.latent_channels,
        out_channels=config.autoencoder.latent_channels,
        block_out_channels=config.channels,
        layers_per_block=1,
        # words are read at 4x4 alone: attention at 8x8 costs half of the speed
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=config.text_width,
        attention_head_dim=2,  # diffusers takes this as the number of heads
        norm_num_groups=8,
        use_linear_projection=True,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=config.text_width,
            intermediate_size=config.text_width * 4,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=0,
        )
    )
    return nn.ModuleDict({"unet": unet, "text": text})


@torch.no_grad()
def encode_images(vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Latents of [N, 3, S, S] uint8 images, [N, C, S/4, S/4], scaled to unit variance, and the scale."""
    device = next(vae.parameters()).device
    latents = torch.cat([vae.encode(to_pixels(chunk, device)).latents for chunk in images.split(256)])
    scale = 1 / float(latents.std())
    return latents * scale, scale


def train_generator(config: GeneratorConfig, output: Path) -> Trainer:
    """Train autoencoder and denoiser, distil the guidance (or go on with them), and save the pipeline to `output`."""
    tokenizer = build_tokenizer()
    models = build_denoiser(config, len(tokenizer))
    vae = _start_from(config.start, models) if config.start else train_autoencoder(config.autoencoder)[0]
    torch.set_num_threads(config.train.threads)
    device = config.train.torch_device()
    models.to(device)
    vae.to(device)
    corpus = build_corpus("generator", config.knowledge, config.train.seed, config.autoencoder.image_size)
    latents, scale = encode_images(vae, corpus.images)
    table, choices = caption_tokens(
        corpus, encode(tokenizer, (c for row in corpus.captions for c in row)), CONTEXT_LENGTH
    )
    nothing = torch.tensor(encode(tokenizer, [""])[""])

    def sample(num: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [N, C, S, S] and tokens [N, 32] of so many samples, some captions left out."""
        indices, classes = corpus.sample(num, rng)
        pick = (torch.rand(num, generator=rng) * choices[classes]).long()
        tokens = table[classes, pick]
        tokens[torch.rand(num, generator=rng) < config.caption_dropout] = nothing
        return latents[indices].to(device), tokens.to(device)

    def velocity(parts: Any, noisy: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, enabled=False):  # so narrow a text encoder is faster in float32
            words = parts["text"](tokens).last_hidden_state
        return parts["unet"](noisy, sigma * 1000, words).sample.float()

    def flow_loss(rng: torch.Generator) -> torch.Tensor:
        clean, tokens = sample(config.train.batch_size, rng)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        # more of the middle, where the picture is decided (SD 3's logit-normal times)
        sigma = torch.sigmoid(torch.randn(len(clean), generator=rng) * 1.1 + 0.3).to(device)
        return F.mse_loss(velocity(models, noisy_latents(clean, noise, sigma), sigma, tokens), noise - clean)

    trainer = Trainer("generator", models, config.train)
    trainer.run(flow_loss)
    trainer.averaged()
    teacher = copy.deepcopy(models).requires_grad_(False)
    sampled = sampling_sigmas(pipeline(vae, models["unet"], models["text"], tokenizer, scale), config.steps)

    def guidance_loss(rng: torch.Generator) -> torch.Tensor:
        """One pass of the student against two of the teacher (arXiv 2210.03142, stage one); no caption, no guidance."""
        clean, tokens = sample(config.distil.batch_size, rng)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        # the noise levels of the default sampler, and now and then any other
        pick = sampled[torch.randint(len(sampled), (len(clean),), generator=rng)]
        sigma = torch.where(torch.rand(len(clean), generator=rng) < 0.7, pick, torch.rand(len(clean), generator=rng))
        sigma = sigma.to(device)
        noisy = noisy_latents(clean, noise, sigma)
        with torch.no_grad():
            empty = velocity(teacher, noisy, sigma, nothing.to(device).expand_as(tokens))
            guided = velocity(teacher, noisy, sigma, tokens)
        return F.mse_loss(velocity(models, noisy, sigma, tokens), empty + config.guidance * (guided - empty))

    if config.distil.steps:
        trainer = Trainer("distilled", models, config.distil)
        trainer.run(guidance_loss)
        trainer.averaged()
    save_generator(config, pipeline(vae, models["unet"], models["text"], tokenizer, scale), output)
    return trainer


def noisy_latents(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.lerp(clean, noise, sigma[:, None, None, None])


def _start_from(folder: Path, models: nn.ModuleDict) -> Any:
    """Load a saved generator's denoiser and text encoder into `models`; returns its autoencoder."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    models["unet"].load_state_dict(pipe.unet.state_dict())
    models["text"].load_state_dict(pipe.text_encoder.state_dict())
    return pipe.vae


def sampling_sigmas(pipe: Any, steps: int) -> torch.Tensor:
    """Noise levels [steps] in (0, 1] at which the pipeline's sampler asks the denoiser."""
    pipe.scheduler.set_timesteps(steps)
    return pipe.scheduler.timesteps.float().cpu() / 1000


def pipeline(vae: Any, unet: nn.Module, text: nn.Module, tokenizer: Any, scale: float) -> Any:
    """Put the parts together as an ordinary Stable Diffusion pipeline with a flow-matching sampler."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    vae.register_to_config(scaling_factor=scale)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, steps_offset=1
    )
    parts = {"vae": vae, "unet": unet, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def save_generator(config: GeneratorConfig, pipe: Any, output: Path) -> None:
    """Write the pipeline as float16 safetensors with its default settings beside it."""
    size = config.autoencoder.image_size
    guidance = 1.0 if config.distil.steps else config.guidance
    defaults = {"num_inference_steps": config.steps, "guidance_scale": guidance, "height": size, "width": size}
    with replace_folder(output) as folder:
        pipe.to(torch.float16)
        pipe.save_pretrained(folder, safe_serialization=True)
        pipe.to(torch.float32)
        (folder / "defaults.json").write_text(json.dumps(defaults, indent=2) + "\n")
