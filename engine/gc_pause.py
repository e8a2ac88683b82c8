"""A pause of Python's garbage collector for blocks that only add objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """Collects no garbage inside the block, which imports libraries and loads a model.

    The collector would look through everything imported so far again and again: a sixth of the time in which a process imports diffusers.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
