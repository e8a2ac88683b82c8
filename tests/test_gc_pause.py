"""The pause of the garbage collector ends with its block, however that ends."""

import gc

import pytest

from engine.gc_pause import gc_paused


def test_it_is_off_inside_and_on_again_afterwards():
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            pass
        assert not gc.isenabled(), "the inner block found it off"
    assert gc.isenabled()
    with pytest.raises(ValueError, match="cannot load"), gc_paused():
        raise ValueError("cannot load")
    assert gc.isenabled()
