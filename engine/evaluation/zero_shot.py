"""CLIP's zero-shot classifier: each class is the mean direction of its name in the templates."""

import torch

from engine.evaluation.class_scores import DatasetMetric, ranked_by, score_classes
from engine.evaluation.features import Array, as_features, same_dimension, unit_norm


def class_embeddings(text_features: Array) -> torch.Tensor:
    """One embedding per class, `[C, D] float32, unit norm`, from its templates' text features `[C, T, D]`.

    CLIP's own prompt ensemble: each text to unit norm, the mean over the templates, to unit norm again (CLIP,
    notebooks/Prompt_Engineering_for_ImageNet). Raises ValueError for another shape or for non-finite values.
    """
    text = as_features(text_features, "text_features", ndim=3)
    return unit_norm(unit_norm(text).mean(dim=1))


def predict(features: Array, embeddings: Array) -> torch.Tensor:
    """Class whose embedding has the largest cosine, `[N] int64`, for features `[N, D]` and embeddings `[C, D]`."""
    return similarities(features, embeddings).argmax(dim=1)


def similarities(features: Array, embeddings: Array) -> torch.Tensor:
    """Cosines `[N, C]` of features `[N, D]` and embeddings `[C, D]`."""
    rows, classes = as_features(features), as_features(embeddings, "embeddings")
    same_dimension(rows, classes, "features", "embeddings")
    return unit_norm(rows) @ unit_norm(classes).T.to(rows.device)


def zero_shot_score(
    test_features: Array, test_labels: Array, text_features: Array, *, metric: DatasetMetric = "accuracy"
) -> float:
    """Zero-shot score, 0 to 1, of test features `[N, D]` against per-template text features `[C, T, D]`.

    Labels are `[N]`, or `[N, C]` of 0 and 1 where an image has several labels.
    Raises ValueError for non-finite features, labels outside the C classes or shapes that do not fit together.
    """
    cosines = similarities(test_features, class_embeddings(text_features))
    return score_classes(ranked_by(cosines, metric, scale=100), test_labels, metric=metric)
