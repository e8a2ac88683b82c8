"""Other ways to train RealRAG's head, one change at a time, evaluated by retrieval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.dataflow.progress import Progress
from engine.retriever.data import RetrieverData
from engine.retriever.exact_search import cut_blocks, top_k
from engine.retriever.fit import TrainingConfig, fit_head
from engine.studies.realrag.judge import ImageSet, Row

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


def compare_options(
    data: RetrieverData,
    unmasked: np.ndarray,
    images: Mapping[str, ImageSet],
    prompts: Mapping[str, np.ndarray],
    training: TrainingConfig,
    seeds: Sequence[int],
) -> list[Row]:
    """Trains a head per change and seed and queries it with every class.

    Args:
        data: training data of the study's head.
        unmasked: `[T, K]` its negatives, mined without the mask on the texts' own classes.
        images: data set → images to retrieve from; all together are the database.
        prompts: data set → `[C, D]` one text per class, in label order.
        training: the configured settings; each change replaces some of them.
        seeds: seeds of the heads.

    Returns:
        One row per change, seed and data set with P@1 and P@10.
    """
    encoder = data.encoder
    database = np.concatenate([each.features[encoder] for each in images.values()])
    classes = [name for each in images.values() for name in each.classes]
    random = np.random.default_rng(0).integers(len(data.image_class), size=(len(data.text_class), 1))
    random[data.image_class[random[:, 0]] == data.text_class] = -1
    runs = [(name, data, changes) for name, changes in OPTIONS]
    runs.append(("own class not masked", replace(data, negatives=unmasked), {}))
    runs.append(("random negatives", replace(data, negatives=random), {}))
    rows = []
    progress = Progress("other ways to train", len(runs) * len(seeds), unit="heads")
    for name, learned, changes in runs:
        for seed in seeds:
            head = fit_head(learned, replace(training, label="option", seed=seed, **changes)).head
            vectors = head.embed(database)
            for dataset, texts in prompts.items():
                found = top_k(texts, cut_blocks(vectors), k=min(10, len(vectors))).rows
                right = np.array(
                    [[classes[row] == (dataset, number) for row in best] for number, best in enumerate(found)]
                )
                scores = {"precision_at_1": right[:, 0].mean(), "precision_at_10": right.mean()}
                rows.append({"change": name, "dataset": dataset, "seed": seed} | scores)
            progress.add(1, 0, 0.0)
            progress.show()
    progress.close()
    return rows
