"""Every figure of the three models beside its target."""

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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
    with_references,
    zero_shot_accuracy,
)
from engine.world.classes import DATASETS, MANY, dataset_classes

_PROBE = {"mini-common": 93.0, "mini-fine": 85.0, "mini-rare": 85.0, "mini-novel": 90.0}
_CHANCE_NOVEL = 100 / 12
_ZERO_SHOT = {
    "mini-common": (88.0, math.inf),
    "mini-fine": (70.0, math.inf),
    "mini-novel": (_CHANCE_NOVEL - 5, _CHANCE_NOVEL + 5),
}
_TEXT_ONLY = {
    "mini-common": (85.0, math.inf),
    "mini-fine": (35.0, 70.0),
    "mini-rare": (15.0, 60.0),
    "mini-novel": (-math.inf, 15.0),
}
_ANY = (-math.inf, math.inf)
_SHOTS, _TEST = {MANY: 60}, {MANY: 10}  # 100 of each in the four sets
_SLACK = 2.0  # twenty images per class measure a share to about two points


@dataclass(frozen=True)
class Figure:
    """One measured number and the range it should be in."""

    name: str
    """Name of the figure, with its unit."""
    value: float
    """The measurement."""
    low: float = -math.inf
    """Least value that meets the target."""
    high: float = math.inf
    """Greatest value that meets the target."""

    @property
    def met(self) -> bool:
        """True if the target is met; a figure without a target always meets it."""
        return self.low <= self.value <= self.high

    @property
    def target(self) -> str:
        """The target in words."""
        if math.isinf(self.low) and math.isinf(self.high):
            return ""
        if math.isinf(self.high):
            return f">= {round(self.low, 1):g}"
        return f"<= {round(self.high, 1):g}" if math.isinf(self.low) else f"{self.low:.1f} to {self.high:.1f}"

    @property
    def missed_by(self) -> float:
        """Distance of the value from its target; 0 if the target is met."""
        return max(self.low - self.value, self.value - self.high, 0.0)


def measure(folder: Path, images_per_class: int, threads: int, say: Callable[[str], None] = print) -> list[Figure]:
    """Measure the four checkpoints below `folder`; takes four to eight minutes on two cores."""
    torch.set_num_threads(threads)
    figures: list[Figure] = []

    def add(*figure: Figure) -> None:
        figures.extend(figure)
        for one in figure:
            say(f"{one.name}: {one.value:.1f}")

    clip, judge = Encoder(folder / "clip"), Encoder(folder / "judge")
    pipe = open_generator(folder / "generator")
    settings = json.loads((folder / "generator" / "defaults.json").read_text())
    referring = with_references(pipe, folder / "reference")
    for dataset in (*DATASETS, MANY):
        num = images_per_class if dataset in DATASETS else max(1, images_per_class // 5)
        add(*_figures_of(dataset, clip, judge, pipe, referring, settings, num))
        if dataset == "mini-common":
            pixels = torch.from_numpy(real_images(dataset, "test", 100)[0]).permute(0, 3, 1, 2)
            add(Figure("autoencoder on common test images, dB", psnr(pipe.vae.float(), pixels), 28.0))
            pipe.vae.to(pipe.unet.dtype)
    torch.set_num_threads(1)
    add(*speeds(pipe, settings, clip))
    torch.set_num_threads(threads)
    add(Figure("checkpoints, MB", num_bytes(folder) / 2**20, high=24.0))
    return figures


def _figures_of(
    dataset: str, clip: Encoder, judge: Encoder, pipe: Any, referring: Any, settings: dict[str, Any], num: int
) -> list[Figure]:
    """Figures of one data set: accuracy of the encoders, and of `num` generated images per class."""
    shots, classes = _SHOTS.get(dataset, 100), len(dataset_classes(dataset))
    images, labels = real_images(dataset, "train", shots + num)
    images = images.reshape(classes, shots + num, *images.shape[1:])
    # the references are none of those the judge has learnt from
    learnt, references = (
        images[:, :shots].reshape(-1, *images.shape[2:]),
        images[:, shots:].reshape(-1, *images.shape[2:]),
    )
    labels = torch.arange(classes).repeat_interleave(shots)
    test, truth = real_images(dataset, "test", _TEST.get(dataset, 100))
    features = clip.images(test)
    zero_shot = zero_shot_accuracy(clip, dataset, features, truth)
    probe = fit_probe(clip.images(learnt), labels)
    probed = accuracy(probe_logits(probe, features), truth)
    probe = fit_probe(judge.images(learnt), labels)

    def judged(images: np.ndarray, classes: torch.Tensor) -> float:
        return accuracy(probe_logits(probe, judge.images(images)), classes)

    real = judged(test, truth)
    prompts, asked = class_prompts(dataset, num)
    from_text = judged(generate(pipe, prompts, settings), asked)
    generated = generate(referring, prompts, settings, references=references)
    # text alone is as good as it gets on common classes: a reference can only cost accuracy there, and the figure says how much
    wanted = {
        "mini-common": -math.inf,
        "mini-fine": min(from_text + 12, real - _SLACK),
        "mini-novel": 75.0,
        MANY: -math.inf,
    }
    return [
        Figure(f"{dataset}: CLIP zero-shot, %", zero_shot, *_ZERO_SHOT.get(dataset, _ANY)),
        Figure(f"{dataset}: CLIP linear probe, {shots} shots, %", probed, _PROBE.get(dataset, -math.inf)),
        Figure(f"{dataset}: judge on real images, %", real),
        Figure(f"{dataset}: judge on images by text alone, %", from_text, *_TEXT_ONLY.get(dataset, _ANY)),
        Figure(
            f"{dataset}: the same with a reference, %",
            judged(generated, asked),
            wanted.get(dataset, from_text - _SLACK),
        ),
        Figure(f"{dataset}: likeness to the reference, r", _likeness(generated, references)),
    ]


def _likeness(generated: np.ndarray, references: np.ndarray) -> float:
    """Mean correlation of the pixels: 1 would be a copy."""
    pairs = zip(generated.astype(np.float32), references.astype(np.float32), strict=True)
    return float(np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs]))


def processor_name() -> str:
    """The processor, as Linux names it; what Python knows elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def speeds(pipe: Any, settings: dict[str, Any], clip: Encoder, repeats: int = 5) -> list[Figure]:
    """Speeds of generator and CLIP on one thread, and their ratio; none has a target.

    A speed is a fact about the processor as much as about the model, so it is no reason to refuse the weights. The ratio says
    more about the models, since both speeds are of the same machine.
    """
    dtype = str(pipe.unet.dtype).removeprefix("torch.")
    generated, encoded = _images_per_second(pipe, settings, repeats=repeats), _encoded_per_second(clip, repeats=repeats)
    return [
        Figure(f"generator, images per processor second ({dtype}, {processor_name()})", generated),
        Figure(f"CLIP, images per processor second (network alone, {processor_name()})", encoded),
        Figure("images that CLIP encodes while one is generated", encoded / generated),
    ]


def _images_per_second(pipe: object, settings: dict, batch_size: int = 64, repeats: int = 5) -> float:
    """Images per processor second on one thread, the best of several batches."""
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
        verdict = ("met" if one.met else f"MISSED by {one.missed_by:.1f}") if one.target else ""
        rows.append(
            f"{one.name.ljust(width)}  {one.value:8.{2 if one.name.endswith(', r') else 1}f}  {one.target:<14} {verdict}".rstrip()
        )
    return "\n".join(rows)
