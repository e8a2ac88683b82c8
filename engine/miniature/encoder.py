"""Train the two encoders, CLIP and the judge, and save them as folders that open_clip opens."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from engine.miniature.checkpoints import replace_folder, save_half
from engine.miniature.corpus import Knowledge, build_corpus, caption_tokens
from engine.miniature.tokenizer import CONTEXT_LENGTH, build_tokenizer, encode, save_tokenizer
from engine.miniature.training import TrainConfig, Trainer

WEIGHTS = "open_clip_model.safetensors"
"""Name of the weights in an encoder's folder."""
_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder's architecture, training images and training loop."""

    name: str
    """`clip` or `judge`: names the world's split, the checkpoint and the folder."""
    vision: dict[str, Any]
    """open_clip's `vision_cfg`."""
    knowledge: Knowledge
    """Training images."""
    embed_dim: int = 96
    """Width of the shared space."""
    class_weight: float = 0.0
    """Weight of a supervised loss (cross-entropy over all classes) beside the contrastive one."""
    text_share: float = 1.0
    """Share of each batch that the contrastive loss looks at; the class loss looks at all."""
    start: Path | None = None
    """Folder of an encoder of the same architecture whose weights the training starts from; random weights otherwise."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    image_size: int = 32
    """Edge of the world's images, pixels."""


def clip_config(train: TrainConfig) -> EncoderConfig:
    """CLIP: a small ModifiedResNet trained on captions; it sees many images of common classes, fewer of fine and rare ones."""
    vision = {"layers": [1, 1, 1, 1], "width": 20, "image_size": 64}
    knowledge = Knowledge(species=600, objects=800, images_per_nameless=16, shares=(0.3, 0.3, 0.12, 0.13, 0.15))
    return EncoderConfig(name="clip", vision=vision, knowledge=knowledge, embed_dim=128, train=train)


def judge_config(train: TrainConfig) -> EncoderConfig:
    """The judge: a deeper, narrower network, other images, labels besides captions, so that its errors differ from CLIP's."""
    vision = {"layers": [1, 2, 2, 1], "width": 16, "image_size": 64}
    shares = (0.33, 0.3, 0.15, 0.12, 0.1)
    knowledge = Knowledge(common=600, fine=600, rare=600, species=300, objects=200, shares=shares)
    return EncoderConfig(
        name="judge", vision=vision, knowledge=knowledge, class_weight=1.0, text_share=0.25, train=train
    )


def model_config(config: EncoderConfig, vocabulary: int) -> dict[str, Any]:
    """The `open_clip_config.json` of an encoder."""
    text: dict[str, Any] = {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": vocabulary,
        "width": 64,
        "heads": 4,
        "layers": 3,
    }
    # any name makes open_clip look for the tokenizer in the model's own folder
    text["hf_tokenizer_name"] = "."
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "vision_cfg": config.vision,
            "text_cfg": text,
            "custom_text": True,
        },
        "preprocess_cfg": {"mean": _MEAN, "std": _STD, "interpolation": "bilinear", "resize_mode": "squash"},
    }


def build_encoder(config: EncoderConfig, vocabulary: int) -> nn.Module:
    """An untrained model of open_clip's classes."""
    from open_clip import CustomTextCLIP

    torch.manual_seed(config.train.seed)
    cfg = dict(model_config(config, vocabulary)["model_cfg"])
    cfg.pop("custom_text")
    return CustomTextCLIP(**cfg)


def augment(images: torch.Tensor, mirrors: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    """Shift, scale, mirror, brighten and enlarge.

    Args:
        images: [N, 3, S, S] uint8.
        mirrors: [N] bool, whether an image may be mirrored.
        size: edge of the result, pixels.
        rng: source of all randomness.

    Returns:
        [N, 3, size, size] float32, normalised as the model's preprocessing does.
    """
    num = len(images)
    noise = torch.rand(5, num, generator=rng)
    flip = torch.where((noise[0] < 0.5) & mirrors, -1.0, 1.0)
    zoom = 0.85 + 0.25 * noise[1]
    affine = torch.zeros(num, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = zoom * flip, zoom
    affine[:, :, 2] = (noise[2:4].T - 0.5) * 0.25
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(affine.to(images.device), [num, 3, size, size], align_corners=False)
        out = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    gain = (0.8 + 0.4 * noise[4]).to(images.device)[:, None, None, None]
    return (out * gain - _MEAN[0]) / _STD[0]


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """CLIP's loss where pairs of the same class are positives too (UniCL, arXiv 2204.03610).

    Args:
        image: [N, D] unit norm.
        text: [N, D] unit norm.
        scale: inverse temperature.
        classes: [N] int64.
    """
    same = (classes[:, None] == classes[None, :]).float()
    target = same / same.sum(1, keepdim=True)
    logits = scale * image @ text.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_encoder(config: EncoderConfig, output: Path) -> Trainer:
    """Train an encoder (or go on with it) and save it to `output`, replaced when complete."""
    torch.set_num_threads(config.train.threads)
    device = config.train.torch_device()
    tokenizer = build_tokenizer()
    corpus = build_corpus(config.name, config.knowledge, config.train.seed, config.image_size)
    table, choices = caption_tokens(
        corpus, encode(tokenizer, (c for row in corpus.captions for c in row)), CONTEXT_LENGTH
    )
    model: Any = build_encoder(config, len(tokenizer))
    if config.start:
        model.load_state_dict(load_file(config.start / WEIGHTS))
    model.to(device).to(memory_format=torch.channels_last)
    head = nn.Linear(config.embed_dim, len(corpus.captions) if config.class_weight else 1).to(device)
    # the tower is causal, so what follows the end token changes nothing: leave it out while training
    longest = int((table != 0).sum(-1).max())
    model.text.attn_mask = model.text.attn_mask[:longest, :longest]
    trainer = Trainer(config.name, nn.ModuleDict({"model": model, "head": head}), config.train)

    def loss_of_step(rng: torch.Generator) -> torch.Tensor:
        indices, classes = corpus.sample(config.train.batch_size, rng)
        pick = (torch.rand(len(classes), generator=rng) * choices[classes]).long()
        images = augment(corpus.images[indices].to(device), corpus.mirrors[classes], config.vision["image_size"], rng)
        features = model.encode_image(images.contiguous(memory_format=torch.channels_last))
        captioned = max(1, round(config.text_share * len(classes)))
        tokens = table[classes, pick, :longest][:captioned].to(device)
        classes = classes.to(device)
        with torch.autocast(device.type, enabled=False):  # so narrow a text tower is faster in float32
            text = model.encode_text(tokens)
            image, text = F.normalize(features[:captioned].float(), dim=-1), F.normalize(text.float(), dim=-1)
            loss = contrastive_loss(image, text, model.logit_scale.exp().clamp(max=100), classes[:captioned])
            if config.class_weight:
                loss = loss + config.class_weight * F.cross_entropy(head(features.float()), classes)
        return loss

    trainer.run(loss_of_step)
    trainer.averaged()
    save_encoder(config, model, tokenizer, output)
    return trainer


def save_encoder(config: EncoderConfig, model: nn.Module, tokenizer: Any, output: Path) -> None:
    """Write an open_clip model folder, float16 safetensors, tokenizer beside it."""
    with replace_folder(output) as folder:
        save_half(model.state_dict(), folder / WEIGHTS)
        text = json.dumps(model_config(config, len(tokenizer)), indent=2)
        (folder / "open_clip_config.json").write_text(text + "\n")
        save_tokenizer(tokenizer, folder)
