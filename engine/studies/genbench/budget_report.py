"""The rows and the verdict of the budget study's report."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.reports.aggregate import Row, group_rows, mean_and_sd, standard_error, with_sd
from engine.reports.comparisons import dot_figure, line_figure
from engine.reports.figures import bar_figure
from engine.reports.headings import source_name

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


def bought_in_words(allocation: Sequence[Row]) -> list[str]:
    """A sentence on the sources that the classes train on beside their originals, by the rows of `allocation`."""
    classes: dict[str, float] = {}
    for row in allocation:
        classes[row["chosen"]] = classes.get(row["chosen"], 0.0) + row["classes"]
    total = sum(classes.values())
    if not total:
        return []
    parts = ", ".join(
        f"{num:.0f} on {'originals alone' if name == 'original' else f'{source_name(name)} images'}"
        for name, num in sorted(classes.items(), key=lambda one: -one[1])
    )
    return [f"Of {total:.0f} classes it trains {parts} (mean over seeds)."]


def spending_figures(summary: Sequence[Row], allocation: Sequence[Row], budget: str) -> dict[str, str]:
    """Caption → accuracy of each way of spending, accuracy against the dollars spent, and the sources chosen, by data set."""
    ways = [row for row in summary if row["linear_probe"] is not None]
    percent = {row["strategy"]: (100 * row["linear_probe"], 100 * (row["linear_probe_sd"] or 0.0)) for row in ways}
    chosen = {
        str(dataset): {source_name(row["chosen"]): (row["classes"], None) for row in members}
        for (dataset,), members in group_rows(allocation, ("dataset",)).items()
    }
    return {
        "Linear probe, mean over data sets; bars are one standard deviation over seeds.": bar_figure(
            {name: mean for name, (mean, _) in percent.items()},
            spread={name: sd for name, (_, sd) in percent.items()},
            title=f"{budget}, labels of the pilot included",
            label="linear probe (%)",
        ),
        "Accuracy per dollar: linear probe against what was spent, mean over data sets; bars are one standard deviation over seeds.": line_figure(
            {row["strategy"]: [(row["usd_busy"], *percent[row["strategy"]])] for row in ways if row["usd_busy"]},
            title="Accuracy per dollar",
            x="busy USD",
            y="linear probe (%)",
            log=True,
        ),
        "Classes that train on each source beside their originals, mean over seeds.": dot_figure(
            chosen, title="Sources chosen by the plan", label="classes"
        ),
    }


def notes(pilot_shots: int, originals: int, max_shots: int) -> list[str]:
    """Sentences on the pilot and the comparisons."""
    return [
        f"The pilot has {pilot_shots} images per class of each cheap source and {originals} labelled originals, which are paid for and "
        "trained on; test images take no part in the decision.",
        f"A single source is bought evenly until the money or {max_shots} images per class are spent; only labels are expensive, so "
        "generated and retrieved images stop at that number and leave most of the budget.",
        f"'{EVERYWHERE}' is not a single source: it is all retrieved images, and originals for the whole budget, without a pilot.",
    ]
