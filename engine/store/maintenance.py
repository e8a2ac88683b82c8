"""Indices of the image table: on ids, on the columns that filters name, and on embeddings."""

from typing import Any

MIN_INDEXED_VECTORS = 5_000
"""Below this many vectors an exact search takes a few milliseconds, as one through an index does."""

ROWS_PER_PARTITION = 1_000_000
"""One graph finds the nearest of a million in the time of one of 50,000, and twenty of these take twenty times that and miss
neighbours across their borders (benchmarks/results). A partition's vectors are in memory while its graph is built."""


def build_scalar_indices(images: Any) -> None:
    """BTREE on `id`; BITMAP on the columns that filters name."""
    images.create_scalar_index("id", "BTREE", replace=True)
    for column in ("dataset", "source", "class_index"):
        images.create_scalar_index(column, "BITMAP", replace=True)


def build_vector_index(images: Any, column: str) -> None:
    """IVF_HNSW_SQ for cosine on an embedding column, when it holds enough vectors to be worth one."""
    vectors = images.count_rows(f"{column} IS NOT NULL")
    if vectors >= MIN_INDEXED_VECTORS:
        partitions = max(1, vectors // ROWS_PER_PARTITION)
        images.create_index(column, "IVF_HNSW_SQ", metric="cosine", num_partitions=partitions, replace=True)
