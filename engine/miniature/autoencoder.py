"""Train the generator's autoencoder: 32x32 pixels to 8x8 latents of twelve channels and back."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from engine.miniature.corpus import Knowledge, build_corpus
from engine.miniature.training import TrainConfig, Trainer

GENERATOR_KNOWLEDGE = Knowledge(
    common=1200,
    fine=30,
    rare=6,
    gaps=(0, 6, 2),
    species=600,
    images_per_nameless=8,
    shares=(0.58, 0.2, 0.07, 0.15, 0.0),
)
"""The generator's knowledge gap: many images of common classes, a few of most fine and of half of the rare classes, none of
every sixth fine and every second rare class, none of the novel classes."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The autoencoder and its training."""

    knowledge: Knowledge = GENERATOR_KNOWLEDGE
    """Training images: the generator's own."""
    width: int = 32
    """Channels of every convolution."""
    encoder_blocks: tuple[int, int, int] = (0, 1, 2)
    """Residual blocks at 32, 16 and 8 pixels."""
    decoder_blocks: tuple[int, int, int] = (2, 2, 0)
    """Residual blocks at 8, 16 and 32 pixels."""
    latent_channels: int = 12
    """Channels of the latents."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    image_size: int = 32
    """Edge of the world's images, pixels."""


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """An untrained `AutoencoderTiny` (no normalisation layers: the fastest decoder on a processor)."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(config.train.seed)
    widths = (config.width,) * 3
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=config.encoder_blocks,
        num_decoder_blocks=config.decoder_blocks,
        latent_channels=config.latent_channels,
    )


def to_pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """[N, 3, S, S] uint8 to float32 in [-1, 1], channels last."""
    return (images.to(device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_autoencoder(config: AutoencoderConfig) -> tuple[Any, Trainer]:
    """Train the autoencoder, or resume its training; its latents have about unit variance."""
    torch.set_num_threads(config.train.threads)
    device = config.train.torch_device()
    corpus = build_corpus("generator", config.knowledge, config.train.seed, config.image_size)
    model = build_autoencoder(config).to(device, memory_format=torch.channels_last)
    trainer = Trainer("autoencoder", model, config.train)

    def loss_of_step(rng: torch.Generator) -> torch.Tensor:
        indices, _ = corpus.sample(config.train.batch_size, rng)
        x = to_pixels(corpus.images[indices], device)
        z = model.encode(x).latents
        # a decoder trained on slightly wrong latents tolerates the sampler's errors
        noise = torch.randn(z.shape, generator=rng).to(device)
        y = model.decode(z + 0.05 * noise).sample
        with torch.autocast(device.type, enabled=False):
            y, z = y.float(), z.float()
            spread = (z.mean((0, 2, 3)).square() + (z.std((0, 2, 3)) - 1).square()).mean()
            return F.mse_loss(y, x) + 0.1 * F.l1_loss(y, x) + 0.02 * spread

    trainer.run(loss_of_step)
    trainer.averaged()
    return model, trainer


@torch.no_grad()
def psnr(model: Any, images: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of decoded against original images ([N, 3, S, S] uint8)."""
    x = to_pixels(images, next(model.parameters()).device)
    error = ((model.decode(model.encode(x).latents).sample.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log() / math.log(10)).mean())
