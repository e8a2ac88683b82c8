"""Nearest images by cosine distance, through the column's index if there is one, else exactly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.recipe import RECIPE_SCHEMA
from engine.store.checks import CONDITION_HINT

NUM_PROBES = 16
REFINE_FACTOR = 3
SEARCH_WIDTH = 200
"""Candidates that the search of a partition's graph keeps."""
FILTERED_SEARCH_WIDTH = 400
"""The same for filtered searches, whose filter may exclude the nearest rows, such as those of the query's own class."""


def nearest(
    dataset: Any,
    column: str,
    vectors: np.ndarray,
    *,
    k: int,
    where: str | None,
    columns: Sequence[str] | None,
    num_probes: int = NUM_PROBES,
) -> pa.Table:
    """The `k` rows nearest to each of `vectors` (`[D]` or `[Q, D]`), nearest first; see `Workspace.search`."""
    if column not in dataset.schema.names:
        raise ValueError(f"the table has no column {column!r}; embed the images with this encoder first")
    dimension = dataset.schema.field(column).type.list_size
    query = np.ascontiguousarray(vectors, dtype=np.float32)
    if query.ndim not in (1, 2) or query.shape[-1] != dimension:
        raise ValueError(f"the vector has shape {query.shape}; column {column!r} holds vectors of {dimension} numbers")
    if not np.isfinite(query).all() or not query.any(axis=-1).all():
        raise ValueError("the vector is zero or holds NaN or infinity; give one that has a direction")
    if k < 1:
        raise ValueError(f"k is {k}; ask for one row at least")
    wanted = list(RECIPE_SCHEMA.names if columns is None else columns)
    extra = ["_distance"] if query.ndim == 1 else ["query_index", "_distance"]
    options = {
        "column": column,
        "q": query,
        "k": k,
        "metric": "cosine",
        "nprobes": num_probes,
        "refine_factor": REFINE_FACTOR,
        "ef": max(SEARCH_WIDTH if where is None else FILTERED_SEARCH_WIDTH, k * REFINE_FACTOR),
    }
    columns = wanted + [name for name in ["_distance"] if name not in wanted]
    try:
        found: pa.Table = dataset.to_table(columns=columns, filter=where, prefilter=True, nearest=options)
    except ValueError as error:
        if where is None:
            raise
        raise ValueError(
            f"cannot select images by {where!r}: {str(error).splitlines()[0]}; {CONDITION_HINT}"
        ) from error
    return found.select(list(dict.fromkeys([*wanted, *extra])))
