"""The newest rows of a table that satisfy a condition, page by page, without reading the whole table."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

POSITION = "position"
"""Column of the answer: number of rows that were written before this one."""
FIRST_ROWS = 1_024
"""Rows that are tried first; four times as many with each step that finds too few."""


def newest(
    dataset: Any,
    where: str | None,
    *,
    limit: int,
    before: int | None = None,
    columns: Sequence[str] = ("id",),
) -> pa.Table:
    """The last `limit` rows for which `where` holds, newest first, with their `position`.

    A page goes on where the last one ended if `before` is the position of its last row: rows that were written since, and merges
    of small files, move nothing.

    Args:
        dataset: a table of the workspace as `Workspace.dataset` gives it.
        before: only rows with a smaller position.
        columns: columns of the answer, small ones: more rows than `limit` are read.

    Raises ValueError if `where` is not a condition on the columns.
    """
    found: list[pa.Table] = []
    missing = limit
    for fragments, starts in _from_the_end(dataset, before):
        page = _matches(dataset, where, fragments, starts, columns)
        if before is not None:
            page = page.filter(pa.compute.less(page[POSITION], before))
        page = page.slice(max(0, page.num_rows - missing))
        found.append(page)
        missing -= page.num_rows
        if not missing:
            break
    if not found:
        schema = pa.schema([*(dataset.schema.field(name) for name in columns), (POSITION, pa.int64())])
        return schema.empty_table()
    table = pa.concat_tables(reversed(found))
    return table.take(np.arange(table.num_rows)[::-1])


def _from_the_end(dataset: Any, before: int | None) -> Iterator[tuple[list[Any], dict[int, int]]]:
    """Groups of neighbouring fragments, the last first, and the position of each one's first row; the groups grow."""
    fragments = dataset.get_fragments()
    sizes = [fragment.physical_rows for fragment in fragments]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    end = len(fragments)
    while before is not None and end and starts[end - 1] >= before:
        end -= 1
    wanted = FIRST_ROWS
    while end:
        first = end - 1
        while first and starts[end] - starts[first] < wanted:
            first -= 1
        group = fragments[first:end]
        yield group, {fragment.fragment_id: int(starts[first + place]) for place, fragment in enumerate(group)}
        end, wanted = first, wanted * 4


def _matches(
    dataset: Any, where: str | None, fragments: list[Any], starts: dict[int, int], columns: Sequence[str]
) -> pa.Table:
    """Rows of these fragments in the order of the table."""
    scanner = dataset.scanner(columns=list(columns), filter=where, fragments=fragments, with_row_address=True)
    table = scanner.to_table()
    addresses = table["_rowaddr"].to_numpy()
    first = np.array([starts[int(number)] for number in addresses >> np.uint64(32)], np.int64)
    positions = first + (addresses & np.uint64(0xFFFFFFFF)).astype(np.int64)
    table = table.drop_columns(["_rowaddr"]).append_column(POSITION, pa.array(positions))
    return table.take(np.argsort(positions, kind="stable"))
