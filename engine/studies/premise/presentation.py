"""The finding and the figures of the premise study's report, from the rows of its tables."""

import statistics
from collections.abc import Sequence

from engine.reports.aggregate import Row, group_rows, is_number, with_sd
from engine.reports.comparisons import Measured, dot_figure
from engine.reports.headings import heading, method_name
from engine.studies.findings import paired
from engine.studies.premise.kinds import ALL, TAUGHT, UNTAUGHT

OUTCOMES = ("precision_at_10", "accuracy")
_KINDS = {UNTAUGHT: "B, not shown to the generator", TAUGHT: "A, shown to it", ALL: "all"}


def findings(scores: Sequence[Row], premise: Sequence[Row]) -> list[str]:
    """For each CLIP model, how far the premise holds and what reflective negatives do to B and to A; the worlds are the sample.

    Args:
        scores: P@10 and accuracy of each CLIP model, world, method, seed and kind of class.
        premise: shares of each CLIP model, means over worlds.
    """
    found = []
    for row in premise:
        share = row["genus_share"]
        gains = {
            kind: _gain([one for one in scores if one["genus_share"] == share and one["classes"] == kind])
            for kind in (UNTAUGHT, TAUGHT)
        }
        if not all(gains.values()):
            continue
        parts = " and ".join(f"{with_sd(gains[kind], 1, '+')} points on {kind}" for kind in gains)
        found.append(
            f"Where {100 * share:.0f} % of CLIP's captions name the genus alone, the generator shows a sibling for {100 * row['generated_sibling']:.0f} % "
            f"of the images of B, {100 * row['mined_sibling']:.0f} % of B's mined negatives show a sibling, and CLIP takes {100 * row['clip_sibling']:.0f} % of "
            f"B's real images for one; reflective negatives change P@10 against normal training by {parts} (± is over {len(gains[UNTAUGHT])} world means)."
        )
    return found


def _gain(rows: Sequence[Row]) -> list[float]:
    """P@10 of `realrag` less that of `normal`, in points, mean over the seeds of each world."""
    means = {
        key: 100 * statistics.fmean(row["precision_at_10"] for row in each)
        for key, each in group_rows(
            [row for row in rows if is_number(row.get("precision_at_10"))], ("method", "world")
        ).items()
    }
    after, before = (
        {world: mean for (method, world), mean in means.items() if method == name} for name in ("realrag", "normal")
    )
    return paired(after, before)


def figures(outcomes: Sequence[Row]) -> dict[str, str]:
    """Caption → SVG: both outcomes of every method by kind of class, for each CLIP model."""
    found = {}
    for (share,), rows in group_rows(outcomes, ("genus_share",)).items():
        for outcome in OUTCOMES:
            groups: dict[str, dict[str, Measured]] = {}
            for row in rows:
                if is_number(row.get(outcome)):
                    sd = row.get(f"{outcome}_sd")
                    groups.setdefault(_KINDS[row["classes"]], {})[method_name(row["method"])] = (
                        100 * row[outcome],
                        100 * sd if sd is not None else None,
                    )
            caption = f"{heading(outcome)} by kind of class and method, {100 * share:.0f} % of CLIP's captions naming the genus alone; bars are one standard deviation over (world, seed) pairs."
            found[caption] = dot_figure(groups, title=f"{heading(outcome)} by method", label=f"{heading(outcome)} (%)")
    return {caption: picture for caption, picture in found.items() if picture}
