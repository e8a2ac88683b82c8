"""Every figure of the three models beside its target."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.miniature.autoencoder import psnr
from engine.miniature.checkpoints import num_bytes
from engine.miniature.evaluate import (
    Encoder,
    accuracy,
    class_prompts,
    fit_probe,
    generate,
    open_generator,
    probe_logits,
    real_images,
    zero_shot_accuracy,
)
from engine.world.classes import DATASETS

_PROBE_TARGETS = {"mini-common": 80.0, "mini-fine": 75.0, "mini-rare": 65.0, "mini-novel": 90.0}
_CHANCE_NOVEL = 100 / 12
_SHOTS, _TEST = 100, 100


@dataclass(frozen=True)
class Figure:
    """One measured number and the range it should be in."""

    name: str
    """What was measured, with its unit."""
    value: float
    """The measurement."""
    low: float = -math.inf
    """Least value that meets the target."""
    high: float = math.inf
    """Greatest value that meets the target."""

    @property
    def met(self) -> bool:
        """Whether the target is met; a figure without a target always is."""
        return self.low <= self.value <= self.high

    @property
    def target(self) -> str:
        """The target in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        if math.isinf(self.high):
            return f">= {self.low:g}"
        return f"<= {self.high:g}" if math.isinf(self.low) else f"{self.low:.1f} to {self.high:.1f}"


def measure(folder: Path, images_per_class: int, threads: int, say: Callable[[str], None] = print) -> list[Figure]:
    """Measure the three checkpoints below `folder`; takes two to four minutes on two cores."""
    torch.set_num_threads(threads)
    figures: list[Figure] = []

    def add(*figure: Figure) -> None:
        figures.extend(figure)
        for one in figure:
            say(f"{one.name}: {one.value:.1f}")

    clip, judge = Encoder(folder / "clip"), Encoder(folder / "judge")
    pipe = open_generator(folder / "generator")
    settings = json.loads((folder / "generator" / "defaults.json").read_text())
    drawn_targets = {"mini-common": (60.0, math.inf), "mini-novel": (-math.inf, 20.0)}
    for dataset in DATASETS:
        images, labels = real_images(dataset, "train", _SHOTS)
        test, truth = real_images(dataset, "test", _TEST)
        features = clip.images(test)
        zero_shot = zero_shot_accuracy(clip, dataset, features, truth)
        low, high = {"mini-common": (75.0, math.inf), "mini-novel": (_CHANCE_NOVEL - 5, _CHANCE_NOVEL + 5)}.get(
            dataset, (-math.inf, math.inf)
        )
        add(Figure(f"{dataset}: CLIP zero-shot, %", zero_shot, low, high))
        probe = fit_probe(clip.images(images), labels)
        score = accuracy(probe_logits(probe, features), truth)
        add(Figure(f"{dataset}: CLIP linear probe, {_SHOTS} shots, %", score, _PROBE_TARGETS[dataset]))
        probe = fit_probe(judge.images(images), labels)
        real = accuracy(probe_logits(probe, judge.images(test)), truth)
        add(Figure(f"{dataset}: judge on real images, %", real))
        prompts, asked = class_prompts(dataset, images_per_class)
        drawn = judge.images(generate(pipe, prompts, settings))
        low, high = drawn_targets.get(dataset, (-math.inf, math.inf))
        add(Figure(f"{dataset}: judge on generated images, %", accuracy(probe_logits(probe, drawn), asked), low, high))
        if dataset == "mini-common":
            pixels = torch.from_numpy(test).permute(0, 3, 1, 2)
            add(Figure("autoencoder on common test images, dB", psnr(pipe.vae.float(), pixels), 25.0))
            pipe.vae.to(pipe.unet.dtype)
    torch.set_num_threads(1)
    add(
        Figure(
            f"generator, images/s a core ({str(pipe.unet.dtype).removeprefix('torch.')})",
            _images_per_second(pipe, settings),
            140.0,
        )
    )
    add(Figure("CLIP, images/s a core (network alone)", _encoded_per_second(clip), 1000.0))
    torch.set_num_threads(threads)
    add(Figure("checkpoints, MB", num_bytes(folder) / 2**20, high=32.0))
    return figures


def _images_per_second(pipe: object, settings: dict, batch_size: int = 64, repeats: int = 5) -> float:
    """Images a processor second on one thread, the best of several batches."""
    prompts = ["a photo of a mug"] * batch_size
    generate(pipe, prompts, settings)
    return batch_size / min(_seconds(lambda: generate(pipe, prompts, settings)) for _ in range(repeats))


@torch.no_grad()
def _encoded_per_second(encoder: Encoder, batch_size: int = 256, repeats: int = 5) -> float:
    size = encoder.model.visual.image_size
    pixels = torch.zeros(batch_size, 3, *(size if isinstance(size, tuple) else (size, size)))
    encoder.model.encode_image(pixels)
    return batch_size / min(_seconds(lambda: encoder.model.encode_image(pixels)) for _ in range(repeats))


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds: on a busy machine the clock on the wall would measure the neighbours."""
    started = time.process_time()
    work()
    return time.process_time() - started


def table(figures: list[Figure]) -> str:
    """The figures as lines of text: name, value, target, and whether it is met."""
    width = max(len(figure.name) for figure in figures)
    rows = [f"{'figure'.ljust(width)}     value  {'target':<14}"]
    for one in figures:
        verdict = ("met" if one.met else "MISSED") if one.target else ""
        rows.append(f"{one.name.ljust(width)}  {one.value:8.1f}  {one.target:<14} {verdict}".rstrip())
    return "\n".join(rows)
