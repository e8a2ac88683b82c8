"""How predictions are counted: GenBench's Table 4 scores some data sets by accuracy, some by the mean over classes."""

from typing import Literal, TypeAlias, get_args

import torch

from engine.evaluation.features import Array, as_labels

Metric: TypeAlias = Literal["accuracy", "mean_per_class"]
METRICS: tuple[str, ...] = get_args(Metric)


def score_predictions(predictions: Array, labels: Array, *, num_classes: int, metric: Metric = "accuracy") -> float:
    """Share of right predictions, 0 to 1 (GenBench Table 4, "Evaluation Metric").

    `accuracy`: over all rows. `mean_per_class`: the mean, over the classes that have a row, of each class's own share.
    `predictions`, `labels`: `[N]` whole numbers. Raises ValueError for another metric, no rows or a bad label.
    """
    check_metric(metric)
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


def check_metric(metric: str) -> None:
    """Raises ValueError for a metric that is not one of METRICS."""
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; give one of {', '.join(METRICS)}")
