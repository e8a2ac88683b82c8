"""The measuring instruments: load an encoder or the generator through its library, embed, fit a linear probe, generate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from engine.models.precision import native_dtype
from engine.world.captions import with_article
from engine.world.classes import dataset_classes, templates
from engine.world.render import render
from engine.world.shards import decode_webp, encode_webp


class Encoder:
    """An encoder opened the way every other is: open_clip's `local-dir:`."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        loaded: Any = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        self.model, self.preprocess = loaded
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")

    @torch.no_grad()
    def images(self, images: np.ndarray, batch_size: int = 256) -> torch.Tensor:
        """[N, S, S, 3] uint8 to [N, D] float32, unit norm."""
        out = []
        for start in range(0, len(images), batch_size):
            batch = torch.stack([self.preprocess(Image.fromarray(i)) for i in images[start : start + batch_size]])
            out.append(F.normalize(self.model.encode_image(batch).float(), dim=-1))
        return torch.cat(out)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> torch.Tensor:
        """N texts to [N, D] float32, unit norm."""
        return F.normalize(self.model.encode_text(self.tokenize(texts)).float(), dim=-1)


def real_images(dataset: str, split: str, shots: int, seed: int = 0) -> tuple[np.ndarray, torch.Tensor]:
    """The first `shots` images of each class of a data set: [N, 32, 32, 3] uint8 and labels [N]."""
    classes = dataset_classes(dataset)
    images = np.concatenate([render(item, split, np.arange(shots), seed) for item in classes])
    images = np.stack([decode_webp(encode_webp(image)) for image in images])  # as they are in the world's shards
    return images, torch.arange(len(classes)).repeat_interleave(shots)


def zero_shot_accuracy(encoder: Encoder, dataset: str, features: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent of the mean embedding of every template."""
    weights = torch.stack(
        [
            F.normalize(encoder.texts([template.format(c=item.name) for template in templates(dataset)]).mean(0), dim=0)
            for item in dataset_classes(dataset)
        ]
    )
    return accuracy(features @ weights.T, labels)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent."""
    return float((logits.argmax(1) == labels).float().mean() * 100)


def fit_probe(features: torch.Tensor, labels: torch.Tensor, decay: float = 3e-4) -> torch.Tensor:
    """Multinomial logistic regression by L-BFGS; [D + 1, C] float32, the last row the bias."""
    x = torch.cat([features * features.shape[1] ** 0.5, torch.ones(len(features), 1)], dim=1)
    weight = torch.zeros(x.shape[1], int(labels.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=120, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight, labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


def probe_logits(weight: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """[N, C] logits of a probe from `fit_probe`."""
    return (features * features.shape[1] ** 0.5) @ weight[:-1] + weight[-1]


def class_prompts(dataset: str, images: int) -> tuple[list[str], torch.Tensor]:
    """`a photo of a mug`, so many times each class, and the labels [N]."""
    classes = dataset_classes(dataset)
    prompts = [f"a photo of {with_article(item.name)}" for item in classes for _ in range(images)]
    return prompts, torch.arange(len(classes)).repeat_interleave(images)


def open_generator(folder: Path, dtype: torch.dtype | None = None) -> Any:
    """The generator as a diffusers pipeline; in bfloat16 where the processor has it, unless another dtype is given."""
    from diffusers import DiffusionPipeline

    dtype = dtype or getattr(torch, native_dtype("bfloat16", "cpu"))

    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def with_references(pipe: Any, folder: Path) -> Any:
    """The pipeline that also reads a reference, from the generator's own parts and the branch in `folder`."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    branch = ControlNetModel.from_pretrained(folder, torch_dtype=pipe.unet.dtype, local_files_only=True)
    parts = {**pipe.components, "controlnet": branch, "requires_safety_checker": False}
    referring = StableDiffusionControlNetPipeline(**parts)
    referring.set_progress_bar_config(disable=True)
    return referring


def generate(
    pipe: Any,
    prompts: Sequence[str],
    settings: dict[str, Any],
    seed: int = 0,
    batch_size: int = 64,
    references: np.ndarray | None = None,
) -> np.ndarray:
    """Generates one image per prompt, image i from seed + i: [N, S, S, 3] uint8; `references` are of that shape too."""
    out = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        seeds = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        shown = {}
        if references is not None:
            shown["image"] = torch.from_numpy(references[start : start + batch_size]).permute(0, 3, 1, 2) / 255
        images = pipe(batch, generator=seeds, output_type="np", **settings, **shown).images
        out.append((images * 255).round().clip(0, 255).astype(np.uint8))
    return np.concatenate(out)
