import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.reports.aggregate import average, columns_of, group_rows, is_number, mean_and_sd, standard_error, with_sd

NUMBERS = st.floats(-1e6, 1e6)


@given(st.lists(NUMBERS, min_size=2))
def test_mean_and_spread_are_those_of_the_standard_library(values: list[float]) -> None:
    assert mean_and_sd(iter(values)) == (statistics.fmean(values), statistics.stdev(values))
    assert standard_error(values) == statistics.stdev(values) / math.sqrt(len(values))


def test_nothing_has_no_mean_and_one_value_no_spread() -> None:
    assert mean_and_sd([]) == (None, None)
    assert mean_and_sd([2.0]) == (2.0, None)
    assert standard_error([2.0]) == 0.0


def test_a_mean_with_its_spread_as_text() -> None:
    assert with_sd([1.0, 2.0], 2, "+") == "+1.50 ± 0.71"
    assert with_sd([-1.0], 1, "+") == "-1.0"


def test_rows_are_averaged_by_the_columns_asked_for() -> None:
    rows = [
        {"a": "x", "seed": 0, "score": 1.0, "usd": 4.0},
        {"a": "x", "seed": 1, "score": 3.0, "usd": None},
        {"a": "y", "seed": 0, "score": float("nan"), "usd": 1.0},
    ]
    first, second = average(rows, ("a",), lambda column: column == "score")
    assert first == {"a": "x", "seeds": 2, "score": 2.0, "score_sd": pytest.approx(math.sqrt(2)), "usd": 4.0}
    assert second == {"a": "y", "seeds": 1, "score": None, "score_sd": None, "usd": 1.0}
    assert columns_of([first]) == ["a", "seeds", "score", "usd"]
    assert list(group_rows(rows, ("a", "b"))) == [("x", None), ("y", None)]


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf")])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)
    assert is_number(1)
