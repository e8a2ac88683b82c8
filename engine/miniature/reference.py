"""Train the generator's reference branch: a ControlNet that reads a picture's pixels beside the frozen generator."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine.miniature.autoencoder import GENERATOR_KNOWLEDGE
from engine.miniature.checkpoints import CHECKPOINTS, replace_folder
from engine.miniature.corpus import Corpus, Knowledge, build_corpus, caption_tokens, in_context
from engine.miniature.generator import encode_images, noisy_latents, sampling_sigmas
from engine.miniature.tokenizer import CONTEXT_LENGTH, build_tokenizer, encode
from engine.miniature.training import TrainConfig, Trainer
from engine.world.captions import prompt_captions
from engine.world.classes import class_names, taught_classes, templates

REFERENCE_KNOWLEDGE = replace(
    GENERATOR_KNOWLEDGE, species=1500, objects=1500, images_per_nameless=6, shares=(0.22, 0.16, 0.12, 0.25, 0.25)
)
"""The generator's own images of named classes, and thousands of nameless looks to copy."""


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """The branch and its training."""

    generator: Path = CHECKPOINTS / "generator"
    """The generator it stands beside; its weights stay as they are."""
    knowledge: Knowledge = REFERENCE_KNOWLEDGE
    """Images it is shown."""
    start: Path | None = None
    """Branch whose weights the training starts from; it needs no training of its reader. A new branch if not given."""
    pixel_channels: tuple[int, ...] = (16, 32, 64)
    """Channels in which the reference is read at 32, 16 and 8 pixels."""
    itself: float = 0.5
    """Share of the samples whose reference is the image itself; another of its class in the rest."""
    sampled: float = 0.5
    """Share of further samples, their reference the image itself, whose noisy latents hold the branch's own first guess:
    it learns to correct its own output, not to trust it."""
    caption_dropout: float = 0.1
    """Share of captions left out."""
    steps: int = 4
    """Sampler steps whose noise levels it learns."""
    reader: TrainConfig = field(default_factory=TrainConfig)
    """The training loop of the layers that read the reference's pixels, trained alone before the rest."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop of the whole branch."""


def build_branch(config: ReferenceConfig, unet: Any) -> Any:
    """The branch to start from, or an untrained `ControlNetModel` that begins as a copy of the denoiser's first half."""
    from diffusers import ControlNetModel

    if config.start:
        return ControlNetModel.from_pretrained(config.start, torch_dtype=torch.float32, local_files_only=True)
    torch.manual_seed(config.train.seed)
    branch = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=config.pixel_channels)
    # a last layer of zeros would keep the reference out until the rest has learnt to do without
    branch.controlnet_cond_embedding.conv_out.reset_parameters()
    return branch


def invented_names(num: int, seed: int) -> list[str]:
    """Invented names that no class has: a prompt with one teaches the branch to rely on the reference."""
    rng = np.random.default_rng([seed, 75])
    taken = {word for item in taught_classes() for word in item.name.split()} | set(class_names("mini-novel"))
    names: list[str] = []
    while len(names) < num:
        syllables = ["".join(rng.choice(list(part)) for part in ("bcdfghjklmnprstvwz", "aeiou", "lmnrstx"))
                     for _ in range(int(rng.integers(1, 4)))]  # fmt: skip
        name = "".join(syllables)
        if name not in taken:
            names.append(name)
    return names


def name_the_nameless(corpus: Corpus, seed: int) -> Corpus:
    """The corpus with an invented name for each nameless class, in as many captions as tell its looks."""
    named, forms = corpus.named, templates("mini-novel")
    names = invented_names(len(corpus.captions) - named, seed)
    captions = [
        (*told, *(in_context(caption, context) for caption in prompt_captions(name, forms)[: len(told)]))
        for told, name, context in zip(corpus.captions[named:], names, corpus.contexts[named:], strict=True)
    ]
    return replace(corpus, captions=(*corpus.captions[:named], *captions))


def to_unit(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """[N, 3, S, S] uint8 to float32 in [0, 1]: what ControlNet pipelines show."""
    return images.to(device).float() / 255


def pair(corpus: Corpus, num: int, itself: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Indices of target images, of their references and classes: three [num] int64.

    A reference is the image itself or another of its class; that of an image in a context is always one without a context.
    """
    indices, classes = corpus.sample(num, rng)
    look = corpus.look[classes]
    other = corpus.first[look] + (torch.rand(num, generator=rng) * corpus.count[look]).long()
    return indices, torch.where(itself & (look == classes), indices, other), classes


def train_reference(config: ReferenceConfig, output: Path) -> Trainer:
    """Train the branch (or go on with it) beside the frozen generator, and save it to `output`."""
    from diffusers import DiffusionPipeline

    torch.set_num_threads(config.train.threads)
    device = config.train.torch_device()
    pipe = DiffusionPipeline.from_pretrained(config.generator, torch_dtype=torch.float32, local_files_only=True)
    size = pipe.unet.config.sample_size * 4
    sampled = sampling_sigmas(pipe, config.steps)
    corpus = name_the_nameless(build_corpus("generator", config.knowledge, config.train.seed, size), config.train.seed)
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.requires_grad_(False).to(device)
    latents = encode_images(pipe.vae, corpus.images)[0]
    tokenizer = build_tokenizer()
    table, choices = caption_tokens(
        corpus, encode(tokenizer, (c for row in corpus.captions for c in row)), CONTEXT_LENGTH
    )
    nothing = torch.tensor(encode(tokenizer, [""])[""])
    branch = build_branch(config, pipe.unet).to(device)
    reader = branch.controlnet_cond_embedding

    def reading_loss(rng: torch.Generator) -> torch.Tensor:
        """Pixels to what the denoiser's first layer makes of their latents: what the copied layers understand."""
        indices, _ = corpus.sample(config.reader.batch_size, rng)
        wanted = pipe.unet.conv_in(latents[indices].to(device))
        return F.mse_loss(reader(to_unit(corpus.images[indices], device)).float(), wanted)

    if config.start is None:
        trainer = Trainer("reader", reader, config.reader)
        trainer.run(reading_loss)
        trainer.averaged()
    trainer = Trainer("reference", branch, config.train)

    def velocity(noisy: torch.Tensor, sigma: torch.Tensor, words: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        down, middle = branch(noisy, sigma * 1000, words, controlnet_cond=seen, return_dict=False)
        found = pipe.unet(
            noisy, sigma * 1000, words, down_block_additional_residuals=down, mid_block_additional_residual=middle
        )
        return found.sample.float()

    def loss_of_step(rng: torch.Generator) -> torch.Tensor:
        num = config.train.batch_size
        own = torch.arange(num) < config.sampled * num
        indices, shown, classes = pair(corpus, num, own | (torch.rand(num, generator=rng) < config.itself), rng)
        tokens = table[classes, (torch.rand(num, generator=rng) * choices[classes]).long()]
        tokens[torch.rand(num, generator=rng) < config.caption_dropout] = nothing
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            words = pipe.text_encoder(tokens.to(device)).last_hidden_state
        seen, clean = to_unit(corpus.images[shown], device), latents[indices].to(device)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        sigma = sampled[torch.where(own, 1, 0) + (torch.rand(num, generator=rng) * (len(sampled) - 1 * own)).long()]
        sigma, told = sigma.to(device), clean.clone()
        with torch.no_grad():  # the sampler's first step, from noise alone
            first = own.to(device)
            guess = velocity(noise[first].contiguous(), torch.ones_like(sigma[first]), words[first], seen[first])
            told[first] = noise[first] - guess
        noisy = noisy_latents(told, noise, sigma)
        wanted = (noisy - clean) / sigma[:, None, None, None]
        return F.mse_loss(velocity(noisy, sigma, words, seen), wanted)

    trainer.run(loss_of_step)
    trainer.averaged()
    save_branch(branch, output)
    return trainer


def save_branch(branch: Any, output: Path) -> None:
    """Write the branch as a diffusers folder, float16 safetensors."""
    with replace_folder(output) as folder:
        branch.half().save_pretrained(folder, safe_serialization=True)
        branch.float()
