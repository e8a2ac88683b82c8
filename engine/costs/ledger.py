"""The ledger: the bill of a run spread over its images, summed by their origin, and the work of each stage."""

import math
from typing import TYPE_CHECKING, Any

from engine.costs.prices import Instance

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

COST_COLUMNS = ("run_id", "source", "dataset", "generator", "device_seconds", "usd_compute", "usd_labels")
GROUP_COLUMNS = ("source", "dataset", "generator")
STAGE_COLUMNS = ("stage", "source", "generator")
STAGES = ("make", "embed", "mine", "train", "inject")
"""Order of the stages in tables; others follow by name."""
NO_IMAGE = "(no image)"
"""Source of the row for the bills of runs without a single image."""


def billed_usd(instance: Instance, nodes: float, wall_seconds: float) -> float:
    """US dollars for `nodes` instances during `wall_seconds`, busy or idle.

    Raises ValueError for a negative or non-finite number of nodes or seconds.
    """
    for name, value in (("nodes", nodes), ("wall_seconds", wall_seconds)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; give a finite number of 0 or more")
    return instance.usd_per_hour * nodes * wall_seconds / 3600


def attribute_billed(images: "pl.DataFrame | pa.Table", runs: "pl.DataFrame | pa.Table") -> "pl.DataFrame":
    """The cost columns of the images, and `usd_billed`: each image's part of the bill of its run, labels included.

    A run's `usd_billed` (compute) is spread over its images in proportion to their busy `usd_compute`, or evenly if none
    was busy. So the images of a run also pay for its idle and failed seconds, and the parts sum to the bill. The image's
    `usd_labels` are added. An image whose run has no record or no bill yet has `usd_billed` null: unknown, not zero.

    Give all images of the runs, and filter the result: an n-shot set then carries its own part of the bill.
    """
    import polars as pl

    frame = _frame(images, COST_COLUMNS, "images")
    bills = _frame(runs, ("run_id", "usd_billed"), "runs").with_columns(pl.col("usd_billed").cast(pl.Float64))
    bills = bills.group_by("run_id").agg(pl.col("usd_billed").sum().alias("run_billed"), _any_null("usd_billed"))
    busy = pl.col("usd_compute").sum().over("run_id")
    share = pl.when(busy > 0).then(pl.col("usd_compute") / busy).otherwise(1 / pl.len().over("run_id"))
    bill = pl.when(~pl.col("any_null")).then(pl.col("run_billed"))
    return (
        frame.with_columns(share.alias("share"))
        .join(bills, on="run_id", how="left", maintain_order="left")
        .with_columns((bill * pl.col("share") + pl.col("usd_labels")).alias("usd_billed"))
        .drop("share", "run_billed", "any_null")
    )


def totals(images: "pl.DataFrame") -> dict[str, Any]:
    """Sums over images that `attribute_billed` returned, or a filter of them.

    `images`, `device_seconds`, `usd_compute`, `usd_labels`, `usd_busy` (compute + labels), `usd_billed` (billed compute
    + labels; None if any image's bill is unknown), and `usd_per_image`, `usd_billed_per_image` (None without images).
    """
    return images.select(_totals()).row(0, named=True)


def summarise(images: "pl.DataFrame | pa.Table", runs: "pl.DataFrame | pa.Table") -> list[dict[str, Any]]:
    """`totals` by (source, dataset, generator), then by source over all (`dataset` and `generator` are `all`).

    `images` has the cost columns of IMAGE_SCHEMA; `runs` has at least `run_id` and `usd_billed`. The bills of runs
    without an image are a last row of source `(no image)`, so that `usd_billed` of the detail rows sums to all bills.
    Raises ValueError for missing columns.
    """
    import polars as pl

    frame = attribute_billed(images, runs)
    by_group = frame.group_by(GROUP_COLUMNS).agg(_totals()).sort(GROUP_COLUMNS)
    by_source = frame.group_by("source").agg(_totals()).sort("source")
    rows = by_group.to_dicts()
    rows += [{"source": row.pop("source"), "dataset": "all", "generator": "all"} | row for row in by_source.to_dicts()]
    bills = _frame(runs, ("run_id", "usd_billed"), "runs").cast({"usd_billed": pl.Float64})
    wasted = float(bills.filter(~pl.col("run_id").is_in(frame["run_id"].implode()))["usd_billed"].sum())
    if wasted > 0:
        empty = totals(frame.clear()) | {"usd_billed": wasted}
        rows.append({"source": NO_IMAGE, "dataset": "all", "generator": "all"} | empty)
    return rows


def summarise_stages(ledger: "pl.DataFrame | pa.Table") -> list[dict[str, Any]]:
    """Work of all runs by (stage, source, generator): `rows`, `busy_seconds`, `usd_compute`, `usd_labels`, `usd_per_row`, `fetched_bytes`.

    `ledger` is the workspace's table of that name. `usd_per_row` is compute and labels per row, None without rows.
    A stage that serves images of every kind, such as `mine`, has an empty source and generator.
    Raises ValueError for missing columns.
    """
    import polars as pl

    sums = ("rows", "busy_seconds", "usd_compute", "usd_labels")
    names = ledger.columns if isinstance(ledger, pl.DataFrame) else ledger.column_names
    more = ("fetched_bytes",) if "fetched_bytes" in names else ()  # of a newer release
    frame = _frame(ledger, (*STAGE_COLUMNS, *sums, *more), "rows of the ledger")
    frame = frame.group_by(STAGE_COLUMNS).agg(pl.col((*sums, *more)).sum())
    busy = pl.col("usd_compute") + pl.col("usd_labels")
    frame = frame.with_columns(pl.when(pl.col("rows") > 0).then(busy / pl.col("rows")).alias("usd_per_row"))
    rows = frame.sort(STAGE_COLUMNS).to_dicts()
    return sorted(rows, key=lambda row: STAGES.index(row["stage"]) if row["stage"] in STAGES else len(STAGES))


def _totals() -> "list[pl.Expr]":
    import polars as pl

    images = pl.len().cast(pl.Int64)
    busy = pl.col("usd_compute").sum() + pl.col("usd_labels").sum()
    # a sum would count an unknown bill as zero
    billed = pl.when(pl.col("usd_billed").null_count() == 0).then(pl.col("usd_billed").sum())
    some = pl.len() > 0
    return [
        images.alias("images"),
        pl.col("device_seconds").sum(),
        pl.col("usd_compute").sum(),
        pl.col("usd_labels").sum(),
        busy.alias("usd_busy"),
        billed.alias("usd_billed"),
        pl.when(some).then(busy / pl.len()).alias("usd_per_image"),
        pl.when(some).then(billed / pl.len()).alias("usd_billed_per_image"),
    ]


def _any_null(column: str) -> "pl.Expr":
    import polars as pl

    return pl.col(column).is_null().any().alias("any_null")


def _frame(table: "pl.DataFrame | pa.Table", columns: tuple[str, ...], what: str) -> "pl.DataFrame":
    """The columns that are needed, as a frame; never the image bytes."""
    import polars as pl

    names = table.columns if isinstance(table, pl.DataFrame) else table.column_names
    missing = [column for column in columns if column not in names]
    if missing:
        raise ValueError(f"{what} lack the columns {', '.join(missing)}; give the table as the workspace reads it")
    selected = table.select(list(columns))
    frame = selected if isinstance(selected, pl.DataFrame) else pl.from_arrow(selected)
    assert isinstance(frame, pl.DataFrame)
    return frame
