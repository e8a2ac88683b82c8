"""Rows of a table by image id: locate, fetch in order, and set columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.store.durable import sync_commit, sync_fragments
from engine.store.schemas import TABLES, conform
from engine.store.vectors import from_matrix

FEW_IDS = 1_000
"""Up to this many ids are found by a filter, which uses an index on `id`; more by a scan of the id column."""

SCAN_ROWS = 131_072


def quote(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def locate(dataset: Any, ids: pa.Array) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The rows whose id is one of `ids`, in table order: ids `[M]`, positions `[M] int64`, fragments `[M] int64`."""
    scanner = dataset.scanner(columns=["id"], with_row_address=True, batch_size=SCAN_ROWS)
    nothing: np.ndarray = np.empty(0, np.int64)
    found, positions, fragments = [pa.array([], pa.string())], [nothing], [nothing]
    start = 0
    for batch in scanner.to_batches():
        hits = pc.is_in(batch.column("id"), value_set=ids)
        found.append(batch.column("id").filter(hits))
        positions.append(start + np.flatnonzero(hits.to_numpy(zero_copy_only=False)))
        addresses = batch.column("_rowaddr").filter(hits).to_numpy()
        fragments.append((addresses >> np.uint64(32)).astype(np.int64))  # upper half of an address: the fragment
        start += batch.num_rows
    return pa.concat_arrays(found), np.concatenate(positions), np.concatenate(fragments)


def fetch(dataset: Any, ids: Sequence[str], columns: Sequence[str], at: Sequence[int] | None = None) -> pa.Table:
    """`id` and `columns` of the rows with these ids, in the order of `ids`; see `Workspace.fetch`.

    `at`: the position at which `locate` found each of them. Without it, and without an index on `id`, the ids of the whole table are read.
    Rows that have moved since are found by their ids.
    """
    wanted = list(dict.fromkeys(["id", *columns]))
    if at is not None and len(ids) and max(at) < dataset.count_rows():
        taken: pa.Table = dataset.take(at, columns=wanted)
        if taken.column("id").to_pylist() == list(ids):  # else the rows have moved
            return taken
    asked = pa.array(ids, pa.string())
    if len(asked) <= FEW_IDS:
        names = ", ".join(quote(name) for name in dict.fromkeys(ids))
        found = dataset.to_table(columns=wanted, filter=f"id IN ({names})" if names else "false")
    else:
        _, positions, _ = locate(dataset, asked.unique())
        found = dataset.take(positions, columns=wanted)
    order = pc.index_in(asked, value_set=found.column("id"))
    table: pa.Table = found.take(order.drop_null())
    return table


def embedding_table(column: str, ids: Sequence[str], vectors: np.ndarray, dimension: int) -> pa.Table:
    """`id` and an embedding column. Raises ValueError if `vectors` are not `[N, D]` for N ids and D dimensions."""
    if vectors.shape != (len(ids), dimension):
        raise ValueError(f"{len(ids)} ids need vectors of shape {(len(ids), dimension)}, not {vectors.shape}")
    arrays = [pa.array(ids, pa.string()), from_matrix(np.asarray(vectors, np.float32))]
    return pa.Table.from_arrays(arrays, names=["id", column])


def fill(dataset: Any, table: pa.Table) -> None:
    """Commits the columns of `table` for the rows with its ids; see `Workspace.fill_columns`."""
    import lance

    for name in table.column_names:
        if name not in dataset.schema.names:
            raise ValueError(f"the table has no column {name}; call ensure_columns first")
    if not table.num_rows:
        return
    asked = table.column("id").combine_chunks()
    found, _, fragments = locate(dataset, asked)
    if len(asked.unique()) != len(asked) or len(found) != len(asked):
        raise ValueError(
            f"{len(asked)} ids name {len(found)} rows of the table; give the id of each committed row once"
        )
    schema = pa.schema([dataset.schema.field(name) for name in table.column_names])
    values = table.cast(schema).take(pc.index_in(found, value_set=asked))

    # merge_insert would rewrite whole rows, encoded images included; update_columns writes these columns alone
    updated, modified = [], set()
    for fragment in np.unique(fragments):
        part = values.filter(pa.array(fragments == fragment))
        metadata, fields = dataset.get_fragment(int(fragment)).update_columns(part, left_on="id", right_on="id")
        updated.append(metadata)
        modified.update(fields)
    update = lance.LanceOperation.Update(
        updated_fragments=updated, fields_modified=sorted(modified), update_mode="rewrite_columns"
    )
    before = dataset.count_rows()
    after = lance.LanceDataset.commit(dataset.uri, update, read_version=dataset.version).count_rows()
    if after != before:
        raise RuntimeError(f"the table went from {before} to {after} rows while columns were filled")


def append(workspace: Any, name: str, table: pa.Table) -> None:
    """Appends rows to a table that needs no lock, beside what other processes append; on disk when this returns."""
    import lance

    dataset = workspace.dataset(name)
    rows = conform(table, TABLES[name])
    if not rows.num_rows:
        return
    fragments = lance.fragment.write_fragments(rows, dataset, schema=rows.schema, mode="append")
    if workspace.is_local:
        sync_fragments(workspace.table_path(name), fragments)
    transaction = lance.Transaction(dataset.version, lance.LanceOperation.Append(fragments))
    committed = lance.LanceDataset.commit(dataset, transaction)
    if workspace.is_local:
        sync_commit(workspace.table_path(name), committed.version, transaction)
