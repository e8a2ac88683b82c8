"""The row of a metric: how it is computed, called, shown and compared. Tables, figures, correlations and the page read it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from engine.catalog.datasets import Metric as DatasetMetric
from engine.evaluation.protocols import ProbeProtocol

Unit: TypeAlias = Literal["share", "points", "cosine", "distance"]
"""`share`: 0 to 1, shown in percent. `points`: up to 100. `cosine`: -1 to 1. `distance`: 0 or more."""


@dataclass(frozen=True, kw_only=True)
class MetricInputs:
    """Training images, test images and class names of one data set, as arrays: all that a metric may look at."""

    train_features: np.ndarray
    """`[M, D]` float32."""
    train_labels: np.ndarray
    """`[M]` int64, or `[M, C]` of 0 and 1 where an image has several labels."""
    train_classes: np.ndarray
    """`[M]` int64, the class that each training image was made or bought for."""
    test_features: np.ndarray
    """`[N, D]` float32."""
    test_labels: np.ndarray
    """`[N]` int64, or `[N, C]` of 0 and 1."""
    num_classes: int
    """`C`."""
    text_features: np.ndarray | None = None
    """`[C, T, D]` float32: each class name in each template; None for metrics that use no text."""
    metric: DatasetMetric = "accuracy"
    """How the data set counts right answers (GenBench Table 4)."""
    seed: int = 0
    """Decides which shots the linear probe holds out."""
    protocol: ProbeProtocol = "validation"
    """How the linear probe is trained."""
    normalise_ensemble: bool = False
    """Whether CLER's ensemble brings the mean of centre and text to unit norm, as the authors' code does."""
    fid_features: tuple[np.ndarray, np.ndarray] | None = None
    """`[N, E]` of the test images and `[M, E]` of the training images, for FID."""
    fid_name: str = ""
    """Network or encoder that the FID features come from."""


Compute: TypeAlias = Callable[[MetricInputs], Mapping[str, float | None]]
"""Column → value. Metrics that are computed together share one function."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says something about a set of images; one column of a table."""

    name: str
    """Column in tables and in report.json."""
    heading: str
    """Name for people."""
    unit: Unit
    """Decides how values are shown."""
    higher_is_better: bool
    """Direction, for the best value of a table and the sign that a correlation should have."""
    compute: Compute | None = None
    """Computes it from arrays; None where a study computes it from more than these."""
    timing: str = ""
    """Name of its column `seconds_…`, which metrics of one `compute` share; its own name if empty."""
    in_tradeoff: bool = False
    """Whether it is a column of the trade-off table, with its standard deviation over seeds."""
    is_proxy: bool = False
    """Whether the metric study asks how well it predicts the linear probe."""

    @property
    def timed_as(self) -> str:
        """Name of its time, without `seconds_`."""
        return self.timing or self.name


@dataclass(frozen=True)
class Measured:
    """Values of metrics, and the time that each took."""

    values: dict[str, float | None]
    """Metric → value."""
    seconds: dict[str, float]
    """`Metric.timed_as` → processor seconds."""


def measure(metrics: Sequence[Metric], inputs: MetricInputs) -> Measured:
    """Computes metrics one after the other; those that share a function are computed once.

    Raises ValueError for an empty set, non-finite features, labels out of range or shapes that do not fit together.
    """
    values: dict[str, float | None] = {}
    seconds: dict[str, float] = {}
    done: set[Compute] = set()
    for metric in metrics:
        assert metric.compute is not None, f"{metric.name} is not computed from arrays"
        if metric.compute not in done:
            done.add(metric.compute)
            started = time.process_time()
            found = metric.compute(inputs)
            seconds[metric.timed_as] = time.process_time() - started
            values |= {each.name: found[each.name] for each in metrics if each.compute is metric.compute}
    return Measured({metric.name: values[metric.name] for metric in metrics}, seconds)
