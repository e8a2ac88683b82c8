"""What keeps a table fast and small: indices, and compaction with the clean-up of what no reader can need."""

from datetime import timedelta
from typing import Any

MIN_INDEXED_VECTORS = 5_000
"""Below this many vectors an exact search takes a few milliseconds, as one through an index does."""

ROWS_PER_PARTITION = 1_000_000
"""One graph finds the nearest of a million in the time of one of 50,000, and twenty of these take twenty times that and miss
neighbours across their borders (benchmarks/results). A partition's vectors are in memory while its graph is built."""
ROWS_PER_FRAGMENT = 100_000
BATCH_ROWS = 256


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


def compact_table(dataset: Any, keep_versions_for: timedelta) -> None:
    """Merges small fragments, brings indices up to date, deletes old versions and files that no version names.

    Orphans go whatever their age, so no run may be between writing a fragment and committing it.
    """
    # an image weighs tens of kilobytes: the defaults (a million rows a file, 8,192 a batch) would fill the memory
    dataset.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FRAGMENT, batch_size=BATCH_ROWS)
    dataset.optimize.optimize_indices()
    dataset.cleanup_old_versions(older_than=keep_versions_for, delete_unverified=True)
