"""A judge of objects and contexts: two linear probes on an encoder's features of real images in every context."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.evaluation import LinearProbe, fit_linear_probe
from engine.models import ImageEncoder
from engine.world.classes import contexts, dataset_classes
from engine.world.render import render

PLAIN = ""
"""The context of a prompt without one."""


def phrases() -> tuple[str, ...]:
    """No context, then those of the miniature world."""
    return (PLAIN, *contexts())


def context_of(prompt: str) -> str:
    """The context that a prompt ends in; empty for none."""
    return next((phrase for phrase in contexts() if prompt.rstrip(".").endswith(f" {phrase}")), PLAIN)


@dataclass(frozen=True)
class Shown:
    """Real images of a data set in every context, as features of the judge."""

    features: np.ndarray
    """`[N, D]` float32, unit norm."""
    labels: np.ndarray
    """`[N]` int64 class indices."""
    places: np.ndarray
    """`[N]` int64 indices of `phrases()`."""

    @classmethod
    def rendered(cls, encoder: ImageEncoder, dataset: str, split: str, num: int) -> "Shown":
        """`num` images of each class in each context; no data set and no training of a model has images of this split."""
        import torch

        def batches() -> Iterator[np.ndarray]:
            for item in dataset_classes(dataset):
                yield np.concatenate(
                    [render(item, f"composition {split}", np.arange(num), context=phrase) for phrase in phrases()]
                )

        features = [
            encoder.encode_images(torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()).cpu().numpy()
            for batch in batches()
        ]
        classes, places = len(features), len(phrases())
        return cls(
            np.concatenate(features),
            np.repeat(np.arange(classes), num * places),
            np.tile(np.repeat(np.arange(places), num), classes),
        )


@dataclass(frozen=True)
class CompositionJudge:
    """Whether an image shows the requested class, among those of its data set, and the requested context, among all."""

    objects: dict[str, LinearProbe]
    """Data set → probe of its classes."""
    places: LinearProbe
    """Probe of the contexts, `phrases()`."""

    @classmethod
    def of(cls, encoder: ImageEncoder, datasets: Sequence[str], num: int) -> "CompositionJudge":
        """Fits the probes on `num` real images of each class in each context."""
        learnt = {name: Shown.rendered(encoder, name, "train", num) for name in datasets}
        return cls(
            {
                name: fit_linear_probe(one.features, one.labels, num_classes=len(dataset_classes(name)), seed=0)
                for name, one in learnt.items()
            },
            fit_linear_probe(
                np.concatenate([one.features for one in learnt.values()]),
                np.concatenate([one.places for one in learnt.values()]),
                num_classes=len(phrases()),
                seed=0,
            ),
        )

    def score(
        self, dataset: str, features: np.ndarray, labels: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two `[N]` bool: whether each image shows its class (`labels`), and its context (`places`, indices of `phrases()`)."""
        return (
            self.objects[dataset].predict(features).numpy() == labels,
            self.places.predict(features).numpy() == places,
        )
