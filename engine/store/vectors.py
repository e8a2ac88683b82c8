"""The one conversion between Arrow's fixed-size lists of embeddings and NumPy matrices."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def to_matrix(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A fixed-size list column without nulls as `[N, D]`, with the type of its values (float32 for embeddings).

    Raises ValueError if there is a null, whose row would be missing in the matrix.
    """
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} embeddings are missing; leave those rows out first")
    values: np.ndarray = pc.list_flatten(column).to_numpy()
    return values.reshape(len(column), column.type.list_size)


def from_matrix(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix `[N, D]` as a fixed-size list column of the same type; `D` is 1 or more."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])
