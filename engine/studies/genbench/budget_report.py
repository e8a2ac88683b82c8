"""The rows and the verdict of the budget study's report."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.reports.aggregate import Row, group_rows, mean_and_sd, standard_error, with_sd

PLANNED, EVERYWHERE = "the plan", "original + retrieval evenly"
SUMMARISED = ("zero_shot", "cler", "linear_probe", "expected")
"""Columns of the summary over data sets and seeds."""


@dataclass(frozen=True)
class Purchase:
    """The images that each class of one data set gets."""

    source: list[str]
    """`C` sources, one per class."""
    shots: dict[str, np.ndarray]
    """Source → `[C]` total images."""
    expected: np.ndarray
    """`[C]` expected share of recognised test images."""


def allocation_rows(dataset: str, class_names: Sequence[str], bought: Purchase, seed: int) -> list[Row]:
    """One row per class: the source it trains on beside its originals, shots of each source, and expected accuracy."""
    return [
        {
            "dataset": dataset,
            "class_name": name,
            "chosen": bought.source[label],
            **{f"{source}_shots": int(shots[label]) for source, shots in bought.shots.items()},
            "expected": float(bought.expected[label]),
            "seed": seed,
        }
        for label, name in enumerate(class_names)
    ]


def allocation_by_source(rows: Sequence[Row]) -> list[Row]:
    """Number of classes of each data set that take each source, and their mean number of originals, over seeds."""
    seeds = len({row["seed"] for row in rows})
    return [
        {
            "dataset": dataset,
            "chosen": chosen,
            "classes": len(members) / seeds,
            "original_shots": statistics.fmean(row["original_shots"] for row in members),
            "expected": statistics.fmean(row["expected"] for row in members),
        }
        for (dataset, chosen), members in group_rows(rows, ("dataset", "chosen")).items()
    ]


def means_by_seed(rows: Sequence[Row], column: str) -> dict[str, dict[int, float]]:
    """Way of spending → seed → mean over data sets."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row[column] is not None:
            found.setdefault(row["strategy"], {}).setdefault(row["seed"], []).append(row[column])
    return {name: {seed: statistics.fmean(each) for seed, each in seeds.items()} for name, seeds in found.items()}


def summarise_spending(rows: Sequence[Row]) -> list[Row]:
    """One row per way of spending: scores and dollars, mean over data sets and seeds."""
    summary = []
    for name in dict.fromkeys(row["strategy"] for row in rows):
        result: dict[str, Any] = {"strategy": name}
        for column in SUMMARISED:
            values = means_by_seed(rows, column).get(name, {}).values()
            result[column], result[f"{column}_sd"] = mean_and_sd(values)
        seeds = len({row["seed"] for row in rows})
        result["usd_busy"] = sum(row["usd_busy"] for row in rows if row["strategy"] == name) / seeds
        summary.append(result)
    return summary


def verdict(rows: Sequence[Row], column: str = "linear_probe") -> list[str]:
    """A sentence on whether the plan beats the best single source by more than a standard error; none without a comparison."""
    means = means_by_seed(rows, column)
    planned = means.get(PLANNED, {})
    singles = {name: each for name, each in means.items() if name.endswith(" alone")}
    if not planned or not singles:
        return []
    best = max(singles, key=lambda name: statistics.fmean(singles[name].values()))
    gain = [100 * (planned[seed] - singles[best][seed]) for seed in planned]
    mean = statistics.fmean(gain)
    error = standard_error(gain)
    word = "beats" if mean > error else "does not clearly beat" if mean > 0 else "does not beat"
    return [
        f"The plan {word} the best single source at equal dollars ({best}): {with_sd(gain, 2, '+')} points of "
        f"linear probe, mean over data sets; better with {sum(each > 0 for each in gain)} of {len(gain)} seeds."
    ]
