"""Every metric as a row: one file per metric, one tuple. Importing it loads no torch; computing a metric does."""

from engine.evaluation.metrics.cler import CLER, CLER_ENSEMBLE
from engine.evaluation.metrics.clip_score import CLIP_SCORE
from engine.evaluation.metrics.derived import CLER_CHANGE, EXPECTED, IMPROVEMENT, MEAN_TEXT_SIMILARITY
from engine.evaluation.metrics.fid import FID
from engine.evaluation.metrics.finetune import FINETUNE
from engine.evaluation.metrics.image_retrieval import PRECISION_AT_5, RECALL_AT_5
from engine.evaluation.metrics.linear_probe import LINEAR_PROBE
from engine.evaluation.metrics.metric import Measured, Metric, MetricInputs, measure
from engine.evaluation.metrics.rating import JUDGED_REAL, MEAN_RATING
from engine.evaluation.metrics.realrag import (
    ACCURACY,
    ACCURACY_ON_REAL,
    CLIP_I,
    CLIP_T,
    INDEX_RECALL,
    JUDGE_I,
    PRECISION_AT_1,
    PRECISION_AT_10,
    RECALL_AT_1,
    RECALL_AT_10,
    RIGHT_REFERENCES,
    ZERO_SHOT_ACCURACY,
)
from engine.evaluation.metrics.zero_shot import ZERO_SHOT

METRICS: tuple[Metric, ...] = (
    ZERO_SHOT,
    CLER,
    CLER_ENSEMBLE,
    CLIP_SCORE,
    FID,
    PRECISION_AT_5,
    RECALL_AT_5,
    LINEAR_PROBE,
    FINETUNE,
    CLER_CHANGE,
    IMPROVEMENT,
    EXPECTED,
    MEAN_TEXT_SIMILARITY,
    ACCURACY,
    ZERO_SHOT_ACCURACY,
    ACCURACY_ON_REAL,
    CLIP_I,
    CLIP_T,
    JUDGE_I,
    RIGHT_REFERENCES,
    INDEX_RECALL,
    PRECISION_AT_1,
    PRECISION_AT_10,
    RECALL_AT_1,
    RECALL_AT_10,
    MEAN_RATING,
    JUDGED_REAL,
)
"""All metrics, in the order of tables and figures. A new metric is a file of this folder and a line here."""


def find_metric(column: str) -> Metric | None:
    """The metric of a column, of one data set's too (`mini-common accuracy`); None for a column of another kind."""
    name = column.rsplit(" ", 1)[-1]
    return next((metric for metric in METRICS if metric.name == name), None)


def is_share(column: str) -> bool:
    """Whether the column holds shares from 0 to 1, which are shown in percent."""
    metric = find_metric(column)
    return metric is not None and metric.unit == "share"


def tradeoff_metrics() -> list[Metric]:
    """The metrics that are columns of the trade-off table."""
    return [metric for metric in METRICS if metric.in_tradeoff]


def proxy_metrics() -> list[Metric]:
    """The metrics that are compared with the linear probe."""
    return [metric for metric in METRICS if metric.is_proxy]


__all__ = [
    "CLER",
    "LINEAR_PROBE",
    "METRICS",
    "PRECISION_AT_5",
    "RECALL_AT_5",
    "Measured",
    "Metric",
    "MetricInputs",
    "find_metric",
    "is_share",
    "measure",
    "proxy_metrics",
    "tradeoff_metrics",
]
