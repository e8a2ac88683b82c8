"""Accuracy of class scores and predictions, counted by the metric of each data set (GenBench Table 4)."""

from typing import get_args

import torch

from engine.catalog.datasets import Metric as DatasetMetric
from engine.evaluation.features import Array, as_labels, as_targets

DATASET_METRICS: tuple[str, ...] = get_args(DatasetMetric)
MAP_METRICS = ("map_11_point", "map_11_point_toolkit")
"""Metrics of images with several labels: they rank the images class by class."""


def score_classes(scores: Array, labels: Array, *, metric: DatasetMetric = "accuracy") -> float:
    """Accuracy of class scores `[N, C]` against labels, from 0 to 1 (GenBench Table 4, "Evaluation Metric").

    - `accuracy`, `mean_per_class`: of the class with the largest score; labels `[N]`.
    - `map_11_point`: PASCAL VOC 2007's; the mean over the classes that have a positive image; labels `[N, C]` of 0 and 1,
      or `[N]`.
    - `map_11_point_toolkit`: the same as GenBench's toolkit has it: the precision at recall 0 is 1, whatever the ranking.
    - `roc_auc`: of the second class against the first; labels `[N]` of 0 and 1, `C = 2`.

    A score may be -inf (a class that is never predicted). Raises ValueError for another metric, no rows, NaN, a bad
    label, labels of another kind than the metric's, or labels of one class only for ROC AUC.
    """
    check_metric(metric)
    values = torch.as_tensor(scores).detach()
    if values.ndim != 2 or not len(values):
        raise ValueError(f"scores have shape {tuple(values.shape)}; give [N, C] with at least one row")
    if values.aminmax().min.isnan():  # one pass
        raise ValueError(f"scores hold NaN in {int(values.isnan().any(dim=1).sum())} of {len(values)} rows; drop those")
    num_classes = values.shape[1]
    truth = as_targets(labels, len(values), num_classes).to(values.device)
    if metric in MAP_METRICS:
        targets = truth if truth.ndim == 2 else torch.nn.functional.one_hot(truth, num_classes)
        return _map_11_point(values.double(), targets, starts_at_1=metric == "map_11_point_toolkit")
    if truth.ndim == 2:
        raise ValueError(f"the labels are multilabel and the metric is {metric!r}; score them by map_11_point")
    if metric == "roc_auc":
        if num_classes != 2:
            raise ValueError(f"ROC AUC needs two classes and the scores have {num_classes}; choose another metric")
        # the rank of a difference of log-odds and of a probability is the same
        finite = values.double().clamp(min=-1e300)
        return binary_roc_auc(finite[:, 1] - finite[:, 0], truth)
    return score_predictions(values.argmax(dim=1), truth, num_classes=num_classes, metric=metric)


def score_predictions(
    predictions: Array, labels: Array, *, num_classes: int, metric: DatasetMetric = "accuracy"
) -> float:
    """Share of right predictions, 0 to 1.

    `accuracy`: over all rows. `mean_per_class`: the mean, over the classes that have a row, of each class's own share.
    `predictions`, `labels`: `[N]` whole numbers. Raises ValueError for another metric, no rows or a bad label.
    """
    check_metric(metric)
    if metric not in ("accuracy", "mean_per_class"):
        raise ValueError(f"{metric} ranks scores and cannot be counted from predictions; use score_classes")
    num_rows = len(labels)
    if num_rows == 0:
        raise ValueError("there are no labels to score against; give at least one row")
    true = as_labels(labels, num_rows, num_classes)
    right = as_labels(predictions, num_rows, num_classes, "predictions").to(true.device) == true
    if metric == "accuracy":
        return float(right.double().mean())
    rows_per_class = torch.bincount(true, minlength=num_classes)
    right_per_class = torch.bincount(true[right], minlength=num_classes)
    seen = rows_per_class > 0
    return float((right_per_class[seen].double() / rows_per_class[seen]).mean())


def binary_roc_auc(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Probability that a positive scores above a negative, ties counting half; scores `[N]`, truth `[N]` of 0 and 1.

    Our own, because torchmetrics' binary_auroc applies a float32 sigmoid, after which large scores tie.
    """
    positive = truth == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        raise ValueError(
            f"ROC AUC needs both classes, but all {len(truth)} labels are {int(bool(num_positive))}; add images of the other"
        )
    _, inverse, counts = scores.unique(return_inverse=True, return_counts=True)
    mid_ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2
    rank_sum = mid_ranks[inverse][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def ranked_by(cosines: torch.Tensor, metric: DatasetMetric, *, scale: float) -> torch.Tensor:
    """Scores `[N, C]` that rank images: the cosines, or for `map_11_point_toolkit` their softmax over classes at a scale.

    GenBench's code (evaluation_utils.py) ranks by softmax(100 cosine) for zero-shot and by softmax(cosine) for CLER. It makes no
    difference to the class with the largest score, but to the order of the images within a class.
    """
    return (scale * cosines.double()).softmax(dim=1) if metric == "map_11_point_toolkit" else cosines


def _map_11_point(scores: torch.Tensor, truth: torch.Tensor, starts_at_1: bool) -> float:
    columns = [column for column in range(truth.shape[1]) if truth[:, column].any()]
    if not columns:
        raise ValueError("no image has a label, so there is no average precision; give labels")
    found = [_average_precision_11(scores[:, column], truth[:, column], starts_at_1) for column in columns]
    return sum(found) / len(columns)


def _average_precision_11(scores: torch.Tensor, truth: torch.Tensor, starts_at_1: bool) -> float:
    """Mean, over the recalls 0, 0.1, … 1, of the best precision at that recall or a higher one (VOC 2007).

    `starts_at_1`: whether the precision at recall 0 is 1, as in GenBench's toolkit, whose curve begins with that point.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order], truth[order].double()
    last_of_tie = torch.cat([ranked[1:] != ranked[:-1], ranked.new_ones(1, dtype=torch.bool)])
    found = hits.cumsum(0)[last_of_tie]
    precision = found / torch.arange(1, len(hits) + 1, device=hits.device)[last_of_tie]
    # whole numbers, since 0.1 * 3 is not 0.3: recall >= t / 10
    best = [precision[10 * found >= tenth * hits.sum()].max() for tenth in range(11)]
    if starts_at_1:
        best[0] = torch.ones_like(best[0])
    return float(torch.stack(best).mean())


def check_metric(metric: str) -> None:
    """Raises ValueError for a metric that is not one of DATASET_METRICS."""
    if metric not in DATASET_METRICS:
        raise ValueError(f"metric is {metric!r}; give one of {', '.join(DATASET_METRICS)}")
