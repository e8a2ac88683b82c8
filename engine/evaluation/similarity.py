"""Cosine similarities: images with their text, images with test images, class names with the captions of a pool."""

from dataclasses import dataclass

import torch

from engine.evaluation.features import Array, as_features, as_labels, as_targets, same_dimension, unit_norm

ROWS_AT_ONCE = 1024
"""Queries whose similarities to all images or captions are held in memory at once."""


def clip_score(image_features: Array, text_features: Array) -> float:
    """CLIP score, 0 to 100: the mean of `100 * max(cosine, 0)` of each image `[N, D]` and its own text `[N, D]`.

    Hessel et al. 2021, with the customary factor 100. Raises ValueError for non-finite features or shapes that
    do not fit together.
    """
    images, texts = as_features(image_features, "image_features"), as_features(text_features, "text_features")
    same_dimension(images, texts, "image_features", "text_features")
    if len(images) != len(texts):
        raise ValueError(f"there are {len(images)} images and {len(texts)} texts; give each image its own text")
    cosines = (unit_norm(images) * unit_norm(texts).to(images.device)).sum(dim=1)
    return float(100 * cosines.clamp(min=0).double().mean())


@dataclass(frozen=True, slots=True)
class RetrievalScore:
    """Image-to-image retrieval, each a mean over classes of the mean over the class's images, from 0 to 1."""

    precision: float
    """Share of the k nearest test images that show the image's class."""
    recall: float
    """Share of the test images of that class that are among the k nearest; at most `k` / their number."""


def image_retrieval_score(
    features: Array,
    labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    num_classes: int,
    k: int = 5,
) -> RetrievalScore:
    """Precision@k and recall@k (GenBench section 12.2): each image `[M, D]`, labels `[M]`, queries its k nearest test images.

    Test images are `[N, D]` with labels `[N]`, or `[N, C]` of 0 and 1. Classes without a test image are left out. Raises
    ValueError for non-finite features, labels out of range, fewer than k test images or shapes that do not fit together.
    """
    queries, test = as_features(features), as_features(test_features, "test_features")
    same_dimension(queries, test, "features", "test_features")
    groups = as_labels(labels, len(queries), num_classes).to(test.device)
    truth = as_targets(test_labels, len(test), num_classes, "test_labels").to(test.device)
    shows = truth.bool() if truth.ndim == 2 else torch.nn.functional.one_hot(truth, num_classes).bool()
    if not 1 <= k <= len(test):
        raise ValueError(f"k is {k} and there are {len(test)} test images; give a k from 1 to that")
    test = unit_norm(test)
    hits = torch.cat(
        [
            shows[(rows.to(test.device) @ test.T).topk(k, dim=1).indices, wanted.unsqueeze(1)].sum(dim=1)
            for rows, wanted in zip(unit_norm(queries).split(ROWS_AT_ONCE), groups.split(ROWS_AT_ONCE), strict=True)
        ]
    ).double()
    relevant = shows.sum(dim=0)
    classes = [number for number in groups.unique().tolist() if relevant[number]]
    if not classes:
        raise ValueError("no class of the images has a test image; give images and test images of the same classes")
    means = torch.stack([hits[groups == number].mean() for number in classes])
    return RetrievalScore(
        precision=float((means / k).mean()), recall=float((means / relevant[classes].to(means)).mean())
    )


def mean_text_similarity(
    class_features: Array, caption_features: Array, *, k: int, counts: Array | None = None
) -> torch.Tensor:
    """MTS of each class, `[C] float32`: the mean cosine of its name `[C, D]` and its k nearest captions `[U, D]`.

    GenBench section 3.3; the mean over classes is that of the data set. `counts` `[U]`: number of pool images that have
    the caption, each of which counts as one of the k. Raises ValueError for non-finite features or fewer than k captioned images.
    """
    names, captions = as_features(class_features, "class_features"), as_features(caption_features, "caption_features")
    same_dimension(names, captions, "class_features", "caption_features")
    each = torch.ones(len(captions), dtype=torch.int64) if counts is None else torch.as_tensor(counts)
    if each.shape != (len(captions),) or each.is_floating_point() or (each < 1).any():
        raise ValueError(f"counts has shape {tuple(each.shape)}; give a whole number of 1 or more for each caption")
    if not 1 <= k <= int(each.sum()):
        raise ValueError(f"k is {k} and the pool has {int(each.sum())} captioned images; give a k from 1 to that")
    captions, each = unit_norm(captions), each.to(captions.device)
    means = []
    for rows in unit_norm(names).to(captions.device).split(ROWS_AT_ONCE):
        cosines, nearest = (rows @ captions.T).topk(min(k, len(captions)), dim=1)
        taken = each[nearest].cumsum(dim=1).clamp(max=k)  # images used up to this caption
        weights = taken.diff(dim=1, prepend=torch.zeros_like(taken[:, :1]))
        means.append((cosines * weights).sum(dim=1) / k)
    return torch.cat(means)
