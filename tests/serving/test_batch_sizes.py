"""Batch sizes are learnt from measured seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.batch_sizes import BatchSizes

KIND = "512x512"


def learnt(seconds: dict[int, float], most: int = 32) -> BatchSizes:
    sizes = BatchSizes(most)
    for size, value in seconds.items():
        sizes.record(KIND, size, value)
    return sizes


def test_sizes_double_up_to_the_limit():
    assert BatchSizes(8).sizes(KIND) == [1, 2, 4, 8]
    assert BatchSizes(6).sizes(KIND) == [1, 2, 4, 6]
    assert BatchSizes(1).sizes(KIND) == [1]


def test_nothing_measured_takes_all_that_wait():
    assert [BatchSizes(8).choose(KIND, waiting) for waiting in (1, 2, 3, 8, 50)] == [1, 2, 4, 8, 8]


def test_batching_that_pays_is_used_and_batching_that_does_not_is_not():
    cheap = learnt({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.1, 16: 1.2, 32: 1.3})
    assert [cheap.choose(KIND, waiting) for waiting in (1, 2, 5, 8)] == [1, 2, 8, 8]
    dear = learnt({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0, 32: 32.0})
    assert [dear.choose(KIND, waiting) for waiting in (1, 5, 50)] == [1, 1, 1]


def test_a_larger_size_is_tried_although_only_smaller_ones_were_measured():
    """The cheapest measured size alone would never leave 1."""
    sizes = learnt({1: 1.0}, most=8)
    assert sizes.choose(KIND, 8) == 8
    sizes.record(KIND, 8, 9.0)
    assert sizes.choose(KIND, 8) == 4


def test_a_size_that_grew_slow_is_left():
    sizes = learnt({1: 1.0, 2: 1.1}, most=2)
    assert sizes.choose(KIND, 2) == 2
    for _ in range(20):
        sizes.record(KIND, 2, 5.0)
    assert sizes.choose(KIND, 2) == 1


def test_memory_that_ran_out_is_remembered_for_that_kind_alone():
    sizes = learnt({}, most=16)
    sizes.limit(KIND, 4)
    sizes.limit(KIND, 8)
    assert sizes.sizes(KIND) == [1, 2, 4]
    assert sizes.sizes("64x64")[-1] == 16


def test_the_expected_duration():
    sizes = learnt({1: 1.0, 4: 2.0})
    assert [sizes.seconds(KIND, size) for size in (1, 2, 4, 8)] == [1.0, 1.0, 2.0, 2.0]
    assert sizes.seconds("64x64", 1) is None


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.floats(0.01, 100)), st.integers(1, 100), st.integers(1, 9))
def test_a_choice_is_always_an_allowed_size(seconds: dict[int, float], waiting: int, most: int):
    sizes = learnt(seconds, most)
    assert sizes.choose(KIND, waiting) in sizes.sizes(KIND)


@given(st.floats(0.01, 10), st.integers(1, 8))
def test_no_choice_is_slower_than_one_by_one(single: float, waiting: int):
    sizes = learnt({1: single, 2: 1.7 * single, 4: 3.0 * single, 8: 7.0 * single}, most=8)
    size = sizes.choose(KIND, waiting)
    assert sizes.seconds(KIND, size) / min(size, waiting) == pytest.approx(
        min(sizes.seconds(KIND, one) / min(one, waiting) for one in sizes.sizes(KIND)), rel=0.12
    )
