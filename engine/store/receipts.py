"""Rows written by a worker, invisible to readers until a `Committer` commits their receipt."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.store.durable import sync_fragments
from engine.store.schemas import conform


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Receipt of a worker for rows that it has written: a few hundred bytes, however large the rows are."""

    table_name: str
    """`images` or `errors`."""
    fragments: list[str]
    """Metadata of each Lance fragment, as JSON."""
    rows: int
    """Rows in these fragments."""
    indices: list[int] = field(default_factory=list)
    """Plan index of each row; empty when the rows belong to no plan."""

    def to_dict(self) -> dict[str, Any]:
        """The receipt as one row of plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Receipt":
        """The receipt in a row; values may be numpy scalars, as in a Ray Data row."""
        return cls(
            table_name=str(values["table_name"]),
            fragments=[str(fragment) for fragment in values["fragments"]],
            rows=int(values["rows"]),
            indices=[int(index) for index in values.get("indices", ())],
        )


def write_fragments(
    uri: str, table_name: str, table: pa.Table, indices: Sequence[int] = (), dataset: Any = None
) -> Receipt:
    """Writes rows that are invisible until a `Committer` commits the receipt; durable when this returns.

    The rows are cast to the table's current columns; embedding columns that `table` lacks are null. `indices`:
    plan index of each row, or none. `dataset`: the table, if it is open. Raises ValueError if the table does not fit.
    """
    import lance

    assert len(indices) in (0, table.num_rows), f"{len(indices)} plan indices for {table.num_rows} rows"
    path = f"{uri}/{table_name}.lance"
    dataset = lance.dataset(path) if dataset is None else dataset
    rows = conform(table, dataset.schema)
    if not rows.num_rows:
        return Receipt(table_name=table_name, fragments=[], rows=0)
    fragments = lance.fragment.write_fragments(rows, dataset, schema=rows.schema, mode="append")
    if "://" not in uri:
        sync_fragments(Path(path), fragments)
    return Receipt(
        table_name=table_name,
        fragments=[json.dumps(fragment.to_json()) for fragment in fragments],
        rows=rows.num_rows,
        indices=[int(index) for index in indices],
    )
