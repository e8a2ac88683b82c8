"""Tables for people: headings, values in the units of their columns, the best value of a comparison, and summary sentences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from engine.evaluation.metrics import find_metric, is_share, tradeoff_metrics
from engine.reports.aggregate import Row, average, group_rows, is_number
from engine.reports.headings import name_of
from engine.sources.kinds import find_source, source_order

SETTING = ("group", "dataset", "source", "strategy", "shots")
"""Columns that, with the seed, identify a row of the trade-off table."""
COMPARED_WITHIN = ("generator", "group", "dataset", "shots")
"""Rows that agree in these columns are alternatives of each other, so the best of them is marked."""


def average_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row per setting: the mean over its seeds of every number, `…_sd` of the scores, and how many `seeds`.

    The standard deviation is the sample's (n - 1), and None for a single seed. Values that are None or not finite are
    left out of the mean.
    """
    scores = {metric.name for metric in tradeoff_metrics()}
    averaged = average(rows, SETTING, lambda column: column in scores)
    groups = list(dict.fromkeys(row.get("group") for row in rows))  # in the order they were given
    return sorted(averaged, key=lambda row: (groups.index(row["group"]), *_order(row)))


def best_cells(rows: Sequence[Row]) -> set[tuple[int, str]]:
    """(Row number, column) of the best value of each metric among rows that are alternatives of each other.

    Nothing is marked in a table of single seeds, nor where all alternatives are equal.
    """
    if any("seed" in row for row in rows):
        return set()
    best = set()
    numbered = [row | {"_number": number} for number, row in enumerate(rows)]
    for members in group_rows(numbered, COMPARED_WITHIN).values():
        for column in dict.fromkeys(name for row in members for name in row):
            metric = find_metric(column)
            if metric is None:
                continue
            values = {row["_number"]: row[column] for row in members if is_number(row.get(column))}
            wanted = (max if metric.higher_is_better else min)(values.values(), default=None)
            if len(set(values.values())) > 1:
                best |= {(number, column) for number, value in values.items() if value == wanted}
    return best


def headlines(tables: Mapping[str, list[Row]]) -> list[str]:
    """Sentences on the images made, their cost, and the accuracy of each source at the most shots, group by group."""
    made = made_and_spent(tables)
    lines = []
    if made["images"]:
        billed = "" if made["usd_billed"] is None else f", {format_usd(made['usd_billed'])} billed"
        lines.append(f"{made['images']:,} images for {format_usd(made['usd_busy'])} busy{billed}.")
    rows = average_over_seeds(tables.get("tradeoff", []))
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group and is_number(row.get("linear_probe"))]
        shots = max((row["shots"] for row in members if is_number(row["shots"])), default=None)
        members = [row for row in members if row["shots"] == shots]
        if not members:
            continue
        parts = []
        for source in dict.fromkeys(row["source"] for row in members):
            # the mean of several strategies: the best would be chosen on the test images
            mine = [row for row in members if row["source"] == source]
            num = len({row["strategy"] for row in mine})
            usd = sum(row["usd_busy"] for row in mine if is_number(row.get("usd_busy"))) / num
            reached = statistics.fmean(row["linear_probe"] for row in mine)
            each = f" (mean of {num} strategies, each)" if num > 1 else ""
            kind = find_source(source)
            parts.append(f"{kind.label if kind else source} {reached:.1%}{each} for {format_usd(usd)}")
        zero_shot = [row["zero_shot"] for row in members if is_number(row.get("zero_shot"))]
        against = f" (zero-shot {statistics.fmean(zero_shot):.1%})" if zero_shot else ""
        lines.append(f"{group}, {shots} shots, linear probe: {', '.join(parts)}{against}.")
    return lines


def made_and_spent(tables: Mapping[str, list[Row]]) -> Row:
    """Totals of the costs table: images, usd_busy, usd_billed (None if any part is unknown), errors and runs."""
    rows = tables.get("costs", [])
    details = [row for row in rows if row.get("dataset") != "all" or str(row.get("source")).startswith("(")]
    billed: list[Any] = [row.get("usd_billed") for row in details]
    return {
        "images": sum(int(row.get("images") or 0) for row in details),
        "usd_busy": sum(row.get("usd_busy") or 0.0 for row in details),
        "usd_billed": sum(billed) if billed and all(is_number(value) for value in billed) else None,
        "errors": sum(int(row.get("count") or 0) for row in tables.get("errors", [])),
        "runs": len(tables.get("runs", [])),
    }


def format_value(column: str, value: Any, row: Row | None = None) -> str:
    """The value as text, in the unit of its column; `–` for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float) and value.is_integer() and column in ("images", "shots", "seeds", "count", "rows"):
        value = int(value)
    if is_share(column) and is_number(value):
        spread: Any = (row or {}).get(f"{column}_sd")
        shown = is_number(spread) and column != "zero_shot"  # no seed changes it
        return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if shown else "")
    if column.startswith("usd_") or "_usd_" in column:
        return format_usd(value) if is_number(value) else str(value)
    if isinstance(value, float) and column.startswith("p_"):
        return f"{value:.2g}"  # a p-value
    if isinstance(value, float):
        spread = (row or {}).get(f"{column}_sd")
        digits = (
            3 if column.rsplit(" ", 1)[-1] == "fid" and abs(value) < 1 else 2
        )  # features of unit norm are near each other
        text = f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.{digits}f}"
        return text + (f" ± {spread:,.{digits}f}" if is_number(spread) else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return name_of(column, str(value))


def format_usd(value: float) -> str:
    """Dollars with two decimals, three significant digits below one dollar, and powers of ten below a tenth of a cent."""
    if value == 0 or abs(value) >= 1:
        return f"${value:,.2f}" if value else "$0"
    if abs(value) < 1e-3:
        return f"${value:.2e}"
    text = f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"
    return f"${text[:4]}{text[4:].rstrip('0')}" if value > 0 else f"-{format_usd(-value)}"


def _order(row: Row) -> tuple[Any, ...]:
    shots = row["shots"] if is_number(row["shots"]) else math.inf
    return (str(row["dataset"]), source_order(row["source"]), str(row["source"]), str(row["strategy"]), shots)
