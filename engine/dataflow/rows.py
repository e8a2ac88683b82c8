"""Rows on their way to the tables: images, errors, and the work spent on them."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from engine.dataflow.stages import column_of
from engine.recipe import ERROR_SCHEMA, IMAGE_SCHEMA, Recipe
from engine.sources import Made, Stored

KINDS = ("stage", "source", "dataset", "strategy", "generator")
"""Key columns of the ledger."""
SUMS = ("rows", "busy_seconds", "usd_compute", "usd_labels", "fetched_bytes")
"""Columns of the ledger that are summed."""


@dataclass(frozen=True)
class Pricing:
    """Prices that a worker needs."""

    usd_per_device_second: float
    """Price of one second of the share of a node that one actor holds."""
    usd_per_label: dict[str, float]
    """Source → price of a human label; labels of test images are free."""


@dataclass
class Row:
    """One recipe and its result."""

    index: int
    recipe: Recipe
    made: Made
    make_seconds: float
    usd_per_make_second: float | None = None
    """Price of `make_seconds` where another device than the worker's was busy; None for the worker's own price."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Stage → busy seconds."""
    added: dict[str, Any] = field(default_factory=dict)
    """Column → value that a stage has added."""
    stored: "Future[Stored] | Stored | None" = None
    stage: str = ""
    reason: str = ""
    """Reason why there is no image; empty for an image."""
    is_rejected: bool = False
    """Whether a stage rejected the image; a rejection is not a failure."""

    def __post_init__(self) -> None:
        if self.made.reason:
            self.reason, self.stage = self.made.reason, "make"

    @property
    def seconds(self) -> float:
        """Busy seconds of all work on the recipe."""
        return self.make_seconds + sum(self.stage_seconds.values())

    def usd(self, stage: str, seconds: float, pricing: Pricing) -> float:
        """Price of the busy seconds of a stage."""
        own = pricing.usd_per_device_second
        return seconds * (own if stage != "make" or self.usd_per_make_second is None else self.usd_per_make_second)

    @property
    def work(self) -> list[tuple[str, float]]:
        """Busy seconds of making and of each stage."""
        return [("make", self.make_seconds), *self.stage_seconds.items()]

    def image(self) -> Stored:
        """The stored image; waits until it is encoded."""
        assert self.stored is not None, "an image is stored before it is written"
        return self.stored.result() if isinstance(self.stored, Future) else self.stored


@dataclass(frozen=True)
class RowTables:
    """Arrow tables of some rows."""

    images: pa.Table
    image_indices: list[int]
    """Plan index of each image."""
    errors: pa.Table
    error_indices: list[int]
    """Plan index of each error."""
    work: list[dict[str, Any]] = field(default_factory=list)
    """Ledger rows without their run id: the work of making and of each stage, by kind of image."""


def to_tables(rows: Sequence[Row], pricing: Pricing, run_id: str, device_name: str, added: pa.Schema) -> RowTables:
    """Tables of `IMAGE_SCHEMA` with the columns `added` by stages, and of `ERROR_SCHEMA`."""
    images = [row for row in rows if not row.reason]
    errors = [row for row in rows if row.reason]
    return RowTables(
        _image_table(images, pricing, run_id, device_name, added),
        [row.index for row in images],
        _error_table(errors, run_id),
        [row.index for row in errors],
        _sum_work(rows, pricing),
    )


def error_row(recipe: Recipe, index: int, reason: str) -> Row:
    """The row of a recipe that killed every process that made it."""
    return Row(index, recipe, Made(reason=reason), make_seconds=0.0)


def _image_table(rows: list[Row], pricing: Pricing, run_id: str, device_name: str, added: pa.Schema) -> pa.Table:
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        image, seconds = row.image(), row.seconds
        values = row.recipe.as_dict() | {
            "id": row.recipe.id,
            "image": image.encoded,
            "content_hash": image.content_hash,
            "image_height": image.height,
            "image_width": image.width,
            "device_seconds": seconds,
            "usd_compute": sum(row.usd(stage, spent, pricing) for stage, spent in row.work),
            "usd_labels": _label_usd(row, pricing),
            "run_id": run_id,
            "batch_size": row.made.batch_size,
            "dtype": row.made.dtype,
            "device": device_name,
            "image_format": image.image_format,
        }
        for name, value in values.items():
            columns[name].append(value)
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in IMAGE_SCHEMA})
    for one in added:
        table = table.append_column(one, column_of([row.added[one.name] for row in rows], one.type))
    return table


def _error_table(rows: list[Row], run_id: str) -> pa.Table:
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        values = row.recipe.as_dict() | {
            "id": row.recipe.id,
            "stage": row.stage,
            "reason": row.reason,
            "device_seconds": row.seconds,
            "run_id": run_id,
        }
        for name, value in values.items():
            columns[name].append(value)
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in ERROR_SCHEMA})


def _label_usd(row: Row, pricing: Pricing) -> float:
    bought = not row.reason and row.recipe.split != "test"
    return pricing.usd_per_label.get(row.recipe.source, 0.0) if bought else 0.0


def _sum_work(rows: Sequence[Row], pricing: Pricing) -> list[dict[str, Any]]:
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        recipe = row.recipe
        for stage, seconds in row.work:
            key = (stage, recipe.source, recipe.dataset, recipe.strategy, recipe.generator)
            start = dict(zip(KINDS, key, strict=True)) | dict.fromkeys(SUMS, 0.0) | {"rows": 0, "fetched_bytes": 0}
            entry = sums.setdefault(key, start)
            entry["rows"] += not row.reason
            entry["busy_seconds"] += seconds
            entry["usd_compute"] += row.usd(stage, seconds, pricing)
            if stage == "make":
                entry["usd_labels"] += _label_usd(row, pricing)
                if recipe.source == "retrieval" and not row.reason:
                    entry["fetched_bytes"] += len(row.image().encoded)
    return list(sums.values())
