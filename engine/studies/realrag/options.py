"""Other ways to train RealRAG's head, one change at a time, evaluated by retrieval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.retriever.blocks import cut_blocks
from engine.retriever.data import RetrieverData
from engine.retriever.exact_search import top_k
from engine.retriever.fit import Trained, TrainingConfig
from engine.studies.realrag.judge import ImageSet, Row

if TYPE_CHECKING:
    from engine.retriever.ray_training import Lesson

Option = tuple[str, int]
"""A change of the training and the seed of the head."""

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as configured", {}),
    ("no reflective negatives", {"num_negatives": 0}),
    ("as printed: no temperature on the reflective term", {"temperature_on_reflective": False}),
    ("four negatives a text", {"num_negatives": 4}),
    ("mined anew before each epoch", {"remine": True}),
    ("four negatives, mined anew before each epoch", {"num_negatives": 4, "remine": True}),
    ("plain MLP, not residual", {"residual": False}),
    ("a quarter of the frozen similarity", {"mix": 0.25}),
    ("half of the frozen similarity", {"mix": 0.5}),
    ("three quarters of the frozen similarity", {"mix": 0.75}),
    ("batches of 32", {"batch_size": 32}),
    ("batches of 512", {"batch_size": 512}),
    ("temperature 0.03", {"temperature": 0.03}),
    ("temperature 0.2", {"temperature": 0.2}),
    ("three times as many epochs", {"epochs": 180}),
)
"""Changes of the training, one at a time, for `--options`."""


def option_lessons(
    data: RetrieverData, unmasked: np.ndarray, training: TrainingConfig, seeds: Sequence[int]
) -> "dict[Option, Lesson]":
    """What the head of each change and seed is trained from.

    Args:
        data: training data of the study's head.
        unmasked: `[T, K]` its negatives, mined without the mask on the texts' own classes.
        training: the configured settings; each change replaces some of them.
        seeds: seeds of the heads.
    """
    random = np.random.default_rng(0).integers(len(data.image_class), size=(len(data.text_class), 1))
    random[data.image_class[random[:, 0]] == data.text_class] = -1
    options = [(name, data, changes) for name, changes in OPTIONS]
    options.append(("own class not masked", replace(data, negatives=unmasked), {}))
    options.append(("random negatives", replace(data, negatives=random), {}))
    return {
        (name, seed): (learned, replace(training, label="option", seed=seed, **changes))
        for name, learned, changes in options
        for seed in seeds
    }


def compare_options(
    trained: Mapping[Option, Trained], images: Mapping[str, ImageSet], prompts: Mapping[str, np.ndarray], encoder: str
) -> list[Row]:
    """Queries the head of each change and seed with every class.

    Args:
        trained: trained heads.
        images: data set → images to retrieve from; all together are the database.
        prompts: data set → `[C, D]` one text per class, in label order.
        encoder: name of the embeddings.

    Returns:
        One row per change, seed and data set with P@1 and P@10.
    """
    database = np.concatenate([each.features[encoder] for each in images.values()])
    classes = [name for each in images.values() for name in each.classes]
    rows = []
    for (change, seed), one in trained.items():
        vectors = one.head.embed(database)
        for dataset, texts in prompts.items():
            found = top_k(texts, cut_blocks(vectors), k=min(10, len(vectors))).rows
            right = np.array([[classes[row] == (dataset, number) for row in best] for number, best in enumerate(found)])
            scores = {"precision_at_1": right[:, 0].mean(), "precision_at_10": right.mean()}
            rows.append({"change": change, "dataset": dataset, "seed": seed} | scores)
    return rows
