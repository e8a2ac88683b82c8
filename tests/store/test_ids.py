import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store import IdSet
from engine.store.ids import id_bytes, id_names

ids = st.lists(st.integers(0, 2**128 - 1) | st.integers(0, 40) | st.integers(0, 40).map(lambda n: n << 96))


@given(held=ids, asked=ids, cut=st.integers(0, 5))
def test_the_set_answers_as_a_python_set_does(held, asked, cut):
    held, asked = [f"{n:032x}" for n in held], [f"{n:032x}" for n in asked]
    found = IdSet([held[:cut], held[cut:]])
    assert len(found) == len(set(held))
    assert found.contains(asked).tolist() == [name in set(held) for name in asked]
    sliced = pa.array(["0" * 32, *asked])[1:]
    assert np.array_equal(found.contains(sliced), found.contains(asked))


@pytest.mark.parametrize("name", ["", "12", "g" * 32, "0" * 31, "0" * 33, "é" * 16, None])
def test_what_is_not_an_id_is_refused(name):
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        IdSet([["0" * 32]]).contains([name])


def test_ids_survive_the_way_through_bytes_zeros_at_their_ends_included():
    names = ["ab" * 16, "00" * 16, "cd" * 15 + "00", "00" + "ef" * 15]
    assert id_names(id_bytes(names)) == names
    assert id_names(id_bytes(names)[[2, 0]]) == [names[2], names[0]]
    assert id_names(id_bytes([])) == []
