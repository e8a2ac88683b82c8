"""The captions of web corpora in a workspace: parts that are done, exactly once, and vectors to search."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.recipe import embedding_column
from engine.store import search
from engine.store.fence import Fence
from engine.store.rows import SCAN_ROWS, quote
from engine.store.vectors import to_matrix
from engine.store.verify import check_files
from engine.store.workspace import Workspace

TABLES_OF_CAPTIONS = ("captions", "caption_parts")
VECTOR_ROWS = 65_536
"""Rows of a block of vectors."""
ROWS_PER_PARTITION = 2_048
"""Rows per partition of the vector index."""
PARTS_PER_DELETE = 500


def guard_captions(workspace: Workspace) -> None:
    """Lets nobody but the run that holds the lock commit captions until the lock ends, and checks their files.

    Raises ValueError if files of them are damaged.
    """
    assert workspace._held is not None, "only the run that holds the lock can keep others out"
    check_files(workspace, TABLES_OF_CAPTIONS)
    for name in TABLES_OF_CAPTIONS:
        if name not in workspace._fences:
            workspace._fences[name] = Fence(workspace.uri, workspace.dataset(name), workspace._held.token)


def vector_type(dimension: int) -> pa.DataType:
    """Type of a column of caption embeddings: float16, half the bytes that a search reads."""
    return pa.list_(pa.float16(), dimension)


def ensure_caption_encoder(workspace: Workspace, encoder: str, dimension: int) -> str:
    """Adds the encoder's column to `captions` if it is missing; returns its name. Raises ValueError for another dimension."""
    column, schema = embedding_column(encoder), workspace.dataset("captions").schema
    if column not in schema.names:
        with workspace.writing("captions") as captions:
            captions.add_columns([pa.field(column, vector_type(dimension))])
    elif schema.field(column).type != vector_type(dimension):
        found = schema.field(column).type.list_size
        raise ValueError(
            f"workspace {workspace.uri} holds captions embedded by {encoder} with {found} numbers, not {dimension}; "
            "give the encoder another name or use another workspace"
        )
    return column


def corpora(workspace: Workspace) -> dict[str, str]:
    """Corpus → its encoder, of all corpora of a workspace."""
    parts = workspace.dataset("caption_parts").to_table(columns=["corpus", "encoder"])
    return dict(sorted(set(zip(parts["corpus"].to_pylist(), parts["encoder"].to_pylist(), strict=True))))


def corpus_parts(workspace: Workspace, corpus: str) -> pa.Table:
    """The parts of a corpus that are done (`CAPTION_PART_SCHEMA`)."""
    return workspace.read("caption_parts", f"corpus = {quote(corpus)}")


def drop_halves(workspace: Workspace, corpus: str) -> int:
    """Removes what a killed or damaged run left of parts whose captions and account do not agree; returns their number.

    Captions are committed before the account of their part, so that a part without one was cut off between the two. Needs
    `guard_captions`.
    """
    counts: dict[int, int] = {}
    columns, where = ["part"], f"corpus = {quote(corpus)}"
    scanner = workspace.dataset("captions").scanner(columns=columns, filter=where, batch_size=SCAN_ROWS)
    for batch in scanner.to_batches():
        for part, number in zip(*np.unique(batch.column("part").to_numpy(), return_counts=True), strict=True):
            counts[int(part)] = counts.get(int(part), 0) + int(number)
    done = corpus_parts(workspace, corpus)
    wanted = dict(zip(done["part"].to_pylist(), done["used"].to_pylist(), strict=True))
    halves = sorted(part for part in counts.keys() | wanted.keys() if counts.get(part, 0) != wanted.get(part, -1))
    halves = [part for part in halves if part in counts or wanted.get(part)]
    for start in range(0, len(halves), PARTS_PER_DELETE):
        numbers = ", ".join(map(str, halves[start : start + PARTS_PER_DELETE]))
        for name in reversed(TABLES_OF_CAPTIONS):
            with workspace.writing(name) as table:
                table.delete(f"{where} AND part IN ({numbers})")
    return len(halves)


def caption_key_batches(workspace: Workspace, corpus: str) -> Iterator[np.ndarray]:
    """Keys `[B] int64` of all captions of a corpus."""
    scanner = workspace.dataset("captions").scanner(
        columns=["key"], filter=f"corpus = {quote(corpus)}", batch_size=SCAN_ROWS
    )
    for batch in scanner.to_batches():
        yield batch.column("key").to_numpy()


def caption_fragments(workspace: Workspace) -> list[int]:
    """Numbers of the fragments of `captions`, the shards of a search on a cluster."""
    return [fragment.fragment_id for fragment in workspace.dataset("captions").get_fragments()]


def caption_vectors(
    workspace: Workspace, corpus: str, encoder: str, fragments: Sequence[int] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions `[B] int64` and embeddings `[B, D]` float32 of a corpus, block by block, of all fragments or of these.

    A position is the number of rows of the table before it. Rows that are added later move none; merges of files do, at the end of runs.
    """
    dataset, column = workspace.dataset("captions"), embedding_column(encoder)
    start = 0
    for fragment in dataset.get_fragments():
        first, start = start, start + fragment.count_rows()
        if fragments is not None and fragment.fragment_id not in fragments:
            continue
        for batch in fragment.scanner(columns=["corpus", column], batch_size=VECTOR_ROWS).to_batches():
            own = pc.equal(batch.column("corpus"), corpus)
            positions = first + np.flatnonzero(own.to_numpy(zero_copy_only=False))
            first += batch.num_rows
            if len(positions):
                yield positions, to_matrix(batch.column(column).filter(own)).astype(np.float32)


def captions_at(workspace: Workspace, positions: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """`columns` of the captions at these positions `[N] int64`, in their order."""
    distinct, places = np.unique(positions, return_inverse=True)
    table: pa.Table = workspace.dataset("captions").take(distinct, columns=list(columns))
    return table.take(places)


def build_caption_index(workspace: Workspace, encoder: str) -> None:
    """Builds IVF_RQ on the captions' vectors, for searches with few queries (a third of the bytes of IVF_HNSW_SQ)."""
    column = embedding_column(encoder)
    with workspace.writing("captions") as captions:
        partitions = max(1, captions.count_rows(f"{column} IS NOT NULL") // ROWS_PER_PARTITION)
        captions.create_index(column, "IVF_RQ", metric="cosine", num_partitions=partitions, replace=True)


def nearest_captions(
    workspace: Workspace, corpus: str, encoder: str, vector: np.ndarray, *, k: int, share: float = 0.5
) -> pa.Table:
    """The `k` captions nearest to one vector `[D]`, with `_distance`; `share` of an index's partitions is read.

    Exact without an index. Half of the partitions found .98 of the exact top 500 (benchmarks/results).
    """
    captions = workspace.dataset("captions")
    probes = max(1, int(share * captions.count_rows() / ROWS_PER_PARTITION))
    columns = ["url", "caption"]
    found: pa.Table = search.nearest(
        captions,
        embedding_column(encoder),
        vector,
        k=k,
        where=f"corpus = {quote(corpus)}",
        columns=columns,
        num_probes=probes,
    )
    return found
