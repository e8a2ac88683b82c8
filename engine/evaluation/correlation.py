"""Does a metric predict accuracy? Correlations with bootstrap intervals (GenBench Fig. 4, 6, 9, 10)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

STATISTICS = ("pearson", "spearman")
ALL = "all"
"""Name of the row over all groups."""


def correlation_rows(
    frame: "pl.DataFrame",
    scores: Sequence[str],
    *,
    against: str = "linear_probe",
    group: str | None = "group",
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Pearson and Spearman correlation of each score with `against`, over all rows and within each group.

    Args:
        frame: one row per data set, class or set of images; rows where either column is null are left out.
        scores: columns to correlate, e.g. `cler`, `clip_score`, `fid`, `precision_at_5`.
        against: the column that they should predict, e.g. the accuracy of the linear probe.
        group: column of the groups; None for all rows only.
        confidence: of the percentile bootstrap over rows (`num_resamples`, by `seed`).

    Returns:
        One row per score and group: `score`, `against`, `group`, `n`, and `pearson`, `pearson_low`, `pearson_high`,
        `spearman`, …; None where fewer than three rows are left or one column does not vary.

    Raises:
        ValueError: a column is missing or holds NaN or infinite values.
    """
    import polars as pl

    for name in (*scores, against, *([group] if group else [])):
        if name not in frame.columns:
            raise ValueError(f"the table has no column {name!r}; it has {', '.join(frame.columns)}")
    for name in (*scores, against):
        values = frame[name].drop_nulls().cast(pl.Float64)
        if not values.is_finite().all():
            raise ValueError(f"column {name!r} holds NaN or infinite values; leave those rows out, or set them to null")
    names = [ALL] + (frame[group].unique(maintain_order=True).to_list() if group else [])
    rows = []
    for score in scores:
        for name in names:
            part = frame if name == ALL else frame.filter(pl.col(str(group)) == name)
            part = part.select(score, against).drop_nulls() if score != against else part.select(score).drop_nulls()
            x, y = (part[column].cast(pl.Float64).to_numpy() for column in (score, against))
            row = {"score": score, "against": against, "group": name, "n": len(x)}
            rows.append(row | _correlations(x, y, confidence, num_resamples, seed))
    return rows


def _correlations(
    x: np.ndarray, y: np.ndarray, confidence: float, num_resamples: int, seed: int
) -> dict[str, float | None]:
    from scipy.stats import rankdata

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {f"{name}{end}": None for name in STATISTICS for end in ("", "_low", "_high")}
    resampled = np.random.default_rng(seed).integers(len(x), size=(num_resamples, len(x)))
    tail = (1 - confidence) / 2
    result: dict[str, float | None] = {}
    for name in STATISTICS:

        def statistic(left: np.ndarray, right: np.ndarray, ranked: bool = name == "spearman") -> np.ndarray:
            return _pearson(rankdata(left, axis=-1), rankdata(right, axis=-1)) if ranked else _pearson(left, right)

        # a resample in which one column does not vary has no correlation and is left out
        low, high = np.nanquantile(statistic(x[resampled], y[resampled]), (tail, 1 - tail))
        result |= {name: float(statistic(x, y)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return result


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation along the last axis; NaN where one side does not vary."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    varying = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    return np.where(varying, (x * y).sum(axis=-1) / np.where(varying, scale, 1), np.nan)
