"""Indices of the image table: on ids, on filter columns, and on embeddings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

MIN_INDEXED_VECTORS = 5_000
"""Below this number of vectors an exact search takes a few milliseconds, as an indexed search does."""

ROWS_PER_PARTITION = 1_000_000
"""One graph searches a million vectors in the time of 50,000; twenty smaller graphs take twenty times that and miss
neighbours across their borders (benchmarks/results). A partition's vectors are in memory while its graph is built."""


def build_scalar_indices(images: Any) -> None:
    """BTREE on `id`; BITMAP on the filter columns."""
    images.create_scalar_index("id", "BTREE", replace=True)
    for column in ("dataset", "source", "class_index"):
        images.create_scalar_index(column, "BITMAP", replace=True)


def ensure_id_index(workspace: "Workspace") -> None:
    """BTREE on `id`, unless there is one; `Workspace.compact` adds the rows that come later."""
    if any(index["fields"] == ["id"] for index in workspace.dataset("images").list_indices()):
        return
    with workspace.writing("images") as images:
        images.create_scalar_index("id", "BTREE")


def build_vector_index(images: Any, column: str) -> None:
    """IVF_HNSW_SQ for cosine on an embedding column, if it holds enough vectors."""
    vectors = images.count_rows(f"{column} IS NOT NULL")
    if vectors >= MIN_INDEXED_VECTORS:
        partitions = max(1, vectors // ROWS_PER_PARTITION)
        images.create_index(column, "IVF_HNSW_SQ", metric="cosine", num_partitions=partitions, replace=True)
