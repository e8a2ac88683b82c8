import numpy as np
import pyarrow as pa
import pytest

from engine.store.vectors import from_matrix, to_matrix


@pytest.mark.parametrize("num_rows", [0, 1, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_matrix_comes_back_as_it_was(num_rows: int, dtype: type) -> None:
    matrix = np.arange(3 * num_rows).reshape(num_rows, 3).astype(dtype)
    for given in (matrix, np.asfortranarray(matrix)):
        column = from_matrix(given)
        assert column.type.list_size == 3
        for read in (column, pa.chunked_array([column])):
            again = to_matrix(read)
            assert again.dtype == dtype
            np.testing.assert_array_equal(again, matrix)


def test_chunks_and_slices_are_read_in_their_order() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(6, 2)
    column = pa.chunked_array([from_matrix(matrix[:2]), from_matrix(matrix[2:])])
    np.testing.assert_array_equal(to_matrix(column), matrix)
    np.testing.assert_array_equal(to_matrix(column.slice(1, 4)), matrix[1:5])
    np.testing.assert_array_equal(to_matrix(from_matrix(matrix).slice(3)), matrix[3:])


def test_a_missing_embedding_is_refused_instead_of_shifting_the_rows() -> None:
    column = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    with pytest.raises(ValueError, match="1 of 2 embeddings are missing"):
        to_matrix(column)
