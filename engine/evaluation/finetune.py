"""Fine-tunes CLIP's image tower and a head on stored pixels, beside the linear probe (GenBench section 2.4).

The paper says no more than "finetuning the CLIP model". Here the head starts from the text embeddings of the class names and CLIP's
logit scale, so that training starts from the zero-shot classifier. AdamW has one constant learning rate for tower and head; batches have
64 images; BatchNorms keep CLIP's statistics, since a few shots give poor ones; the loss is cross entropy; there is no augmentation.
Learning rate and number of epochs are chosen on shots held out of the training images. Then all shots are trained on for that many
epochs, and the last epoch counts. The test set is used once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from engine.evaluation.class_scores import DatasetMetric, check_metric, score_classes
from engine.evaluation.features import Array, as_labels, unit_norm
from engine.evaluation.linear_probe import hold_out
from engine.evaluation.zero_shot import class_embeddings
from engine.models import ImageEncoder

Pixels: TypeAlias = Callable[[Sequence[int]], list[torch.Tensor]]
"""Rows → their images, uint8 `[3, H, W]`, decoded on request, batch by batch."""

LabelledPixels: TypeAlias = tuple[Pixels, Array]
"""Images and their labels `[N]`."""

LEARNING_RATES: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
MAX_EPOCHS = 10
DEFAULT_LR, DEFAULT_EPOCHS = 1e-5, 5
"""Used when no class has a second shot to hold out."""
WEIGHT_DECAY = 1e-2
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class FinetuneScore:
    """Accuracy of the fine-tuned model on the test set, and the settings chosen."""

    score: float
    """Share from 0 to 1, after the last epoch."""
    validation_score: float | None
    """Accuracy of the chosen settings on the held-out shots; None if nothing could be held out."""
    learning_rate: float
    """Learning rate chosen."""
    epochs: int
    """Epochs chosen."""


def finetune_score(
    encoder: ImageEncoder,
    train: LabelledPixels,
    test: LabelledPixels,
    text_features: Array,
    *,
    metric: DatasetMetric = "accuracy",
    seed: int = 0,
    learning_rates: Sequence[float] = LEARNING_RATES,
    max_epochs: int = MAX_EPOCHS,
) -> FinetuneScore:
    """Fine-tunes a copy of the encoder's image tower on training images and scores it on test images; text is `[C, T, D]`.

    The shots held out, and the order of the minibatches, come from `seed`.

    Raises:
        ValueError: several labels per image, labels out of range, no image, or no learning rate or epoch to choose from.
    """
    pixels, train_labels = train
    test_pixels, test_labels = test
    check_metric(metric)
    if not learning_rates or max_epochs < 1:
        raise ValueError("there is no learning rate or no epoch to choose from; give at least one of each")
    start = class_embeddings(text_features)
    for name, labels in (("train_labels", train_labels), ("test_labels", test_labels)):
        if torch.as_tensor(labels).ndim == 2:
            raise ValueError("fine-tuning needs one label per image; leave it out for a data set with several")
        if not len(labels):
            raise ValueError(f"{name} is empty; give at least one image")
    truth = as_labels(train_labels, len(train_labels), len(start), "train_labels")
    held_out = hold_out(truth, seed)
    rate, epochs, validation = DEFAULT_LR, DEFAULT_EPOCHS, None
    if held_out.any():
        kept, kept_out = (rows.nonzero().squeeze(1) for rows in (~held_out, held_out))
        counted: DatasetMetric = "accuracy" if metric == "roc_auc" and len(truth[kept_out].unique()) < 2 else metric
        tried = {}
        for each in learning_rates:
            models = _train(encoder, pixels, kept, truth, start, each, max_epochs, seed)
            for number, model in enumerate(models, 1):
                logits = _logits(encoder, model, pixels, kept_out)
                if not torch.isfinite(logits).all():
                    break
                loss = float(torch.nn.functional.cross_entropy(logits, truth[kept_out]))
                tried[each, number] = score_classes(logits, truth[kept_out], metric=counted), -loss
        if tried:
            rate, epochs = max(tried, key=lambda point: tried[point])
            validation = tried[rate, epochs][0]
    every = torch.arange(len(truth))
    *_, model = _train(encoder, pixels, every, truth, start, rate, epochs, seed)
    logits = _logits(encoder, model, test_pixels, torch.arange(len(test_labels)))
    return FinetuneScore(score_classes(logits, test_labels, metric=metric), validation, rate, epochs)


class _Classifier(torch.nn.Module):
    """An image tower and a head of cosines."""

    def __init__(self, tower: torch.nn.Module, start: torch.Tensor, scale: float):
        super().__init__()
        self.tower = tower
        self.head = torch.nn.Parameter(start.clone())
        self.scale = scale

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits `[B, C]` of prepared pixels."""
        return self.scale * unit_norm(self.tower(pixels).float()) @ self.head.T


def _train(
    encoder: ImageEncoder,
    pixels: Pixels,
    rows: torch.Tensor,
    labels: torch.Tensor,
    start: torch.Tensor,
    learning_rate: float,
    epochs: int,
    seed: int,
) -> Iterator[_Classifier]:
    """The model after each epoch; always the same object."""
    model = _Classifier(encoder.trainable_tower(), start.to(encoder.device), encoder.logit_scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH_SIZE):
            optimizer.zero_grad()
            logits = model(encoder.prepare(pixels(batch.tolist())).float())
            torch.nn.functional.cross_entropy(logits, labels[batch].to(logits.device)).backward()
            optimizer.step()
        yield model


@torch.no_grad()
def _logits(encoder: ImageEncoder, model: _Classifier, pixels: Pixels, rows: torch.Tensor) -> torch.Tensor:
    parts = [model(encoder.prepare(pixels(batch.tolist())).float()).cpu() for batch in rows.split(BATCH_SIZE)]
    return torch.cat(parts)
