"""Rows made fit to read: averages over seeds, headings, and numbers in the units their names say."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

SCORES = ("zero_shot", "cler", "cler_ensemble", "linear_probe", "finetune")
"""Columns that hold what a set of images is worth, shares from 0 to 1; tables show their spread."""
SHARES = (
    *(*SCORES, "cler_change", "improvement", "expected", "share"),
    *("accuracy", "accuracy_on_real", "right_references", "index_recall"),
    *("precision_at_1", "precision_at_5", "precision_at_10", "recall_at_1", "recall_at_5", "recall_at_10"),
)
"""Columns that are shown in percent."""
SOURCES = ("generative", "retrieval", "original")
SETTING = ("group", "dataset", "source", "strategy", "shots")
"""What, with the seed, tells the rows of the trade-off apart."""

_HEADINGS = {
    "tradeoff": "Accuracy and cost",
    "cler": "CLER",
    "cler_ensemble": "CLER ensemble",
    "cler_change": "CLER less zero-shot",
    "clip_score": "CLIP score",
    "fid": "FID",
    "precision_at_5": "Precision@5",
    "recall_at_5": "Recall@5",
    "finetune": "Fine-tuned",
    "improvement": "Gain on zero-shot",
    "mts": "Mean text similarity",
    "realrag": "RealRAG: images and their judges",
    "clip_i": "CLIP-I",
    "clip_t": "CLIP-T",
    "judge_i": "Judge-I",
    **{f"realrag_table_{number}": f"RealRAG Table {number}" for number in range(1, 6)},
    "table_2": "Table 2: CLER by prompt strategy",
    "dataset": "Data set",
    "usd_busy": "Busy USD",
    "usd_billed": "Billed USD",
    "usd_compute": "Compute USD",
    "usd_labels": "Label USD",
    "usd_per_image": "USD / image",
    "usd_billed_per_image": "Billed USD / image",
    "usd_per_hour": "USD / hour",
    "printed_usd_per_image": "Printed USD / image",
    "hours_per_1000_images": "Hours / 1,000 images",
    "device_seconds": "Device seconds",
    "run_id": "Run",
}


def heading(name: str) -> str:
    """A column's or table's name in words."""
    *of, last = name.rsplit(" ", 1)  # `mini-common clip_i`: a score of a data set
    if of:
        return f"{of[0]} {_HEADINGS.get(last, last.replace('_', ' '))}"
    return _HEADINGS.get(name) or name.replace("_", " ").capitalize()


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns of the rows, in order of appearance, without the spread columns `…_sd` that belong to another."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not (name.endswith("_sd") and name.removesuffix("_sd") in names)]


def average_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row a setting: the mean over its seeds of every number, `…_sd` of the scores, and how many `seeds`.

    The standard deviation is the sample's (n - 1), and None for a single seed. Values that are None or not finite are
    left out of the mean.
    """
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(name) for name in SETTING), []).append(row)
    averaged = []
    for setting, members in settings.items():
        result: Row = dict(zip(SETTING, setting, strict=True)) | {"seeds": len(members)}
        for column in columns_of(members):
            if column in (*SETTING, "seed"):
                continue
            values: list[float] = [row[column] for row in members if is_number(row.get(column))]
            result[column] = statistics.fmean(values) if values else None
            if column in SCORES:
                result[f"{column}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        averaged.append(result)
    groups = list(dict.fromkeys(row.get("group") for row in rows))  # in the order they were given
    return sorted(averaged, key=lambda row: (groups.index(row["group"]), *_order(row)))


def headlines(tables: dict[str, list[Row]]) -> list[str]:
    """What was made, what it cost, and for each group what each source reached with the most shots."""
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
            parts.append(f"{source} {reached:.1%}{each} for {format_usd(usd)}")
        zero_shot = [row["zero_shot"] for row in members if is_number(row.get("zero_shot"))]
        against = f" (zero-shot {statistics.fmean(zero_shot):.1%})" if zero_shot else ""
        lines.append(f"{group}, {shots} shots, linear probe: {', '.join(parts)}{against}.")
    return lines


def made_and_spent(tables: dict[str, list[Row]]) -> Row:
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


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_value(column: str, value: Any, row: Row | None = None) -> str:
    """The value as text, in the unit its column's name says; `–` for nothing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float) and value.is_integer() and column in ("images", "shots", "seeds", "count"):
        value = int(value)
    if (column in SHARES or column.endswith(" accuracy")) and is_number(value):
        spread: Any = (row or {}).get(f"{column}_sd")
        shown = is_number(spread) and column != "zero_shot"  # which no seed can change
        return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if shown else "")
    if column.startswith("usd_") or "_usd_" in column:
        return format_usd(value) if is_number(value) else str(value)
    if isinstance(value, float) and column.startswith("p_"):
        return f"{value:.2g}"  # a p-value
    if isinstance(value, float):
        spread = (row or {}).get(f"{column}_sd")
        text = f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}"
        return text + (f" ± {spread:,.2f}" if is_number(spread) else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def format_usd(value: float) -> str:
    """Dollars with two decimals, three significant digits below one dollar, and powers of ten below a tenth of a cent."""
    if value == 0 or abs(value) >= 1:
        return f"${value:,.2f}" if value else "$0"
    if abs(value) < 1e-3:
        return f"${value:.2e}"
    text = f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"
    return f"${text[:4]}{text[4:].rstrip('0')}" if value > 0 else f"-{format_usd(-value)}"


def _order(row: Row) -> tuple[Any, ...]:
    source = SOURCES.index(row["source"]) if row["source"] in SOURCES else len(SOURCES)
    shots = row["shots"] if is_number(row["shots"]) else math.inf
    return (str(row["dataset"]), source, str(row["source"]), str(row["strategy"]), shots)
