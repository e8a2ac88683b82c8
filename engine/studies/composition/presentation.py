"""The finding and the figures of the composition study's report, from the rows of its tables."""

import statistics
from collections.abc import Sequence

from engine.reports.aggregate import Row, group_rows, is_number, with_sd
from engine.reports.comparisons import Measured, dot_figure
from engine.reports.headings import heading, method_name
from engine.studies.composition.config import SHIPPED, TRAINED
from engine.studies.findings import over_seeds, seed_means

OUTCOMES = ("object", "context", "both")
"""Shares of the images that show the class, the context, and both."""


def findings(rows: Sequence[Row]) -> list[str]:
    """How often images in a context show object, context and both: without references, and with those of each branch.

    Args:
        rows: scores of each branch, method, seed, data set and prompt.
    """
    placed = [row for row in rows if row["prompt"] == "all contexts"]
    methods = [method for method in dict.fromkeys(row["method"] for row in placed) if method != "none"]
    last = methods[-1] if methods else ""
    parts = []
    for branch, method, words in (
        ("-", "none", "without a reference"),
        (SHIPPED, last, f"with one by {method_name(last)} through the shipped branch"),
        (TRAINED, last, "through the branch that was taught contexts"),
    ):
        own = [row for row in placed if (row["branch"], row["method"]) == (branch, method)]
        shares = {name: list(seed_means(own, name).values()) for name in OUTCOMES}
        if all(shares.values()):
            parts.append(f"{words}, {', '.join(f'{name} {with_sd(shares[name], 1)} %' for name in OUTCOMES)}")
    if not parts:
        return []
    seeds = len({row["seed"] for row in placed})
    found = [f"Images whose prompt has a context show: {'; '.join(parts)} (mean over data sets; {over_seeds(seeds)})."]
    copied = {
        branch: [
            100 * row["reference_correlation"]
            for row in placed
            if row["branch"] == branch and is_number(row.get("reference_correlation"))
        ]
        for branch in (SHIPPED, TRAINED)
    }
    if all(copied.values()):
        found.append(
            f"Their pixels correlate with those of the reference by {statistics.fmean(copied[SHIPPED]):.0f} % through the shipped branch and by "
            f"{statistics.fmean(copied[TRAINED]):.0f} % through the other."
        )
    return found


def figures(sums: Sequence[Row]) -> dict[str, str]:
    """Caption → SVG: object, context and both of every data set by branch and method, for prompts with a context.

    Args:
        sums: means over seeds, with their spread.
    """
    found = {}
    placed = [row for row in sums if row["prompt"] == "all contexts"]
    for outcome in OUTCOMES:
        groups: dict[str, dict[str, Measured]] = {}
        for (dataset,), each in group_rows(placed, ("dataset",)).items():
            for row in each:
                if is_number(row.get(outcome)):
                    sd = row.get(f"{outcome}_sd")
                    who = method_name(row["method"]) + (f", {row['branch']}" if row["method"] != "none" else "")
                    groups.setdefault(dataset, {})[who] = 100 * row[outcome], 100 * sd if sd is not None else None
        name = heading(outcome)
        caption = f"{name}: share of the images in a context that show it, by data set; bars are one standard deviation over seeds."
        found[caption] = dot_figure(groups, title=f"{name} right, prompts with a context", label=f"{name} right (%)")
    return {caption: picture for caption, picture in found.items() if picture}
