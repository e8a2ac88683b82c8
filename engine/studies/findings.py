"""The first sentences of a study's report: what was found, with its spread, computed from the rows."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from engine.reports.aggregate import Row, group_rows, is_number, mean_and_sd, with_sd
from engine.reports.headings import source_name, strategy_words
from engine.reports.tables import average_over_seeds, format_usd

PROBABILITY = 0.95
"""Of the interval that decides whether a difference is called clear."""
LISTED_GROUPS = 4


def over_seeds(num: int) -> str:
    """Says what ± is over."""
    return f"± is over {num} seeds" if num > 1 else "one seed, so without a spread"


def seed_means(rows: Sequence[Row], column: str, scale: float = 100.0) -> dict[Any, float]:
    """Seed → mean over data sets of a column, times `scale`; a seed that lacks a data set that others have is left out."""
    rows = [row for row in rows if is_number(row.get(column))]
    datasets = {row["dataset"] for row in rows}
    means = {}
    for (seed,), members in group_rows(rows, ("seed",)).items():
        by_dataset = group_rows(members, ("dataset",))
        if len(by_dataset) == len(datasets):
            means[seed] = scale * statistics.fmean(
                statistics.fmean(row[column] for row in each) for each in by_dataset.values()
            )
    return means


def paired(after: Mapping[Any, float], before: Mapping[Any, float]) -> list[float]:
    """Differences of the seeds that both have."""
    return [after[seed] - before[seed] for seed in after if seed in before]


def is_clear(differences: Sequence[float]) -> bool | None:
    """Whether the 95 % interval of Student's t over the differences leaves out 0; None for fewer than two."""
    mean, sd = mean_and_sd(differences)
    if mean is None or sd is None:
        return None
    from scipy.stats import t

    num = len(differences)
    return abs(mean) > float(t.ppf((1 + PROBABILITY) / 2, num - 1)) * sd / num**0.5


def how_clear(differences: Sequence[float]) -> str:
    """`clear over 5 seeds at 95 %`, `not clear over 5 seeds at 95 %` or `one seed, so without a test`."""
    clear = is_clear(differences)
    if clear is None:
        return "one seed, so without a test"
    return f"{'clear' if clear else 'not clear'} over {len(differences)} seeds at 95 %"


def tradeoff_findings(rows: Sequence[Row], metric: str = "linear_probe") -> list[str]:
    """GenBench Fig. 3 in two sentences: the sources at the most shots, and generated images against the best other source by group."""
    rows = [row for row in rows if is_number(row.get(metric)) and is_number(row.get("shots"))]
    if not rows:
        return []
    shots = max(row["shots"] for row in rows)
    rows = [row for row in rows if row["shots"] == shots]
    means = {source: seed_means(members, metric) for (source,), members in group_rows(rows, ("source",)).items()}
    ranked = sorted((source for source in means if means[source]), key=lambda source: -_mean(means[source]))
    if not ranked:
        return []
    first, *rest = ranked
    datasets = len({row["dataset"] for row in rows})
    others = ", ".join(f"{source_name(source)} {with_sd(list(means[source].values()), 1)} %" for source in rest)
    zero_shot = seed_means(rows, "zero_shot")
    against = f"; zero-shot CLIP has {_mean(zero_shot):.1f} %" if zero_shot else ""
    sentences = [
        f"With {shots:g} images per class, {source_name(first)} images give the highest linear-probe accuracy, "
        f"{with_sd(list(means[first].values()), 1)} %{f' ({others})' if others else ''}, mean over {counted(datasets, 'data set')}"
        f"{against} ({over_seeds(len(means[first]))})."
    ]
    return sentences + _against_other(rows, metric, ranked)


def _against_other(rows: Sequence[Row], metric: str, ranked: Sequence[str]) -> list[str]:
    """Generated images less the best other source, or less zero-shot CLIP where there is none, group by group."""
    if "generative" not in ranked:
        return []
    mine = [row for row in rows if row["source"] == "generative"]
    other = next((source for source in ranked if source != "generative"), "")
    theirs = [row for row in rows if row["source"] == other]
    gaps = {}
    for group in dict.fromkeys(row.get("group") for row in mine):
        after = seed_means([row for row in mine if row.get("group") == group], metric)
        before = seed_means(
            [row for row in (theirs or mine) if row.get("group") == group], metric if other else "zero_shot"
        )
        if found := paired(after, before):
            gaps[str(group)] = found
    if not gaps:
        return []
    shown = sorted(gaps, key=lambda group: -statistics.fmean(gaps[group]))
    shown = shown if len(shown) <= LISTED_GROUPS else [shown[0], shown[-1]]
    parts = ", ".join(f"{with_sd(gaps[group], 1, '+')} points in {group}" for group in shown)
    if not other:
        return [f"Against zero-shot CLIP, generated images give {parts}."]
    price = f", and cost {_usd(mine)} instead of {_usd(theirs)}" if _usd(mine) and _usd(theirs) else ""
    return [f"Against {source_name(other)} images, generated ones give {parts}{price}."]


def _usd(rows: Sequence[Row]) -> str:
    spent = [row["usd_busy"] for row in average_over_seeds(rows) if is_number(row.get("usd_busy"))]
    strategies = len({row.get("strategy") for row in rows})
    return format_usd(sum(spent) / strategies) if spent else ""


def ranking_findings(
    rows: Sequence[Row], series: str, column: str, noun: str, of: str, scale: float = 100.0
) -> list[str]:
    """The best of several alternatives with its lead over the next one, and the worst, by a column that should be high.

    `series`: column that names the alternatives; `noun`, `of`: what they are and what is measured, as in "prompt strategy", "CLER".
    """
    means = {str(name): seed_means(each, column, scale) for (name,), each in group_rows(rows, (series,)).items()}
    ranked = sorted((name for name in means if means[name]), key=lambda name: -_mean(means[name]))
    if not ranked:
        return []
    datasets = len({row["dataset"] for row in rows})
    first = ranked[0]
    sentence = (
        f"The {noun} {_quoted(first)} has the highest {of}, {with_sd(list(means[first].values()), 1)} %, mean over "
        f"{counted(datasets, 'data set')} ({over_seeds(len(means[first]))})"
    )
    if len(ranked) == 1:
        return [sentence + "."]
    lead = paired(means[first], means[ranked[1]])
    sentence += f", {with_sd(lead, 1, '+')} points over {_quoted(ranked[1])} ({how_clear(lead)})." if lead else "."
    last = ranked[-1]
    behind = paired(means[last], means[first])
    if last == ranked[1] or not behind:
        return [sentence]
    return [
        sentence,
        f"The lowest of {len(ranked)} is {_quoted(last)}, {with_sd(behind, 1, '+')} points from the best.",
    ]


def _quoted(name: str) -> str:
    return f"“{strategy_words(name)}”"


def _mean(means: Mapping[Any, float]) -> float:
    return statistics.fmean(means.values())


def counted(num: int, noun: str, plural: str = "") -> str:
    """`1 run`, `2,000 runs`."""
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"
