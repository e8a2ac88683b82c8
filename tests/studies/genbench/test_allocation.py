import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.studies.genbench.allocation import (
    Curve,
    Option,
    allocate,
    errors_of,
    fit_curve,
    leave_one_out_errors,
    options_of,
    spread_evenly,
    worth_keeping,
)


def _spent(chosen: list[Option]) -> float:
    return sum(option.usd for option in chosen)


def test_dollars_go_where_they_gain_most():
    good = [Option("retrieval", 20, 0.0, 0.95), Option("original", 20, 2.0, 0.97)]
    bad = [Option("retrieval", 20, 0.0, 0.10), Option("original", 20, 2.0, 0.90)]
    chosen, left = allocate([good, bad, good], [1, 1, 1], 2.5)
    assert [option.source for option in chosen] == ["retrieval", "original", "retrieval"]
    assert left == pytest.approx(0.5)
    chosen, left = allocate([good, bad, good], [1, 1, 1], 100)
    assert [option.source for option in chosen] == ["original"] * 3
    assert left == pytest.approx(94)
    chosen, left = allocate([good, bad, good], [1, 1, 1], 0)
    assert [option.source for option in chosen] == ["retrieval"] * 3


def test_a_long_way_to_a_large_gain_is_taken_in_one_step():
    # the first dollar gains nothing: originals are worse than what is there until there are three of them
    late = [
        Option("retrieval", 20, 0.0, 0.5),
        *(Option("original", n, float(n), v) for n, v in ((1, 0.2), (2, 0.4), (3, 0.9))),
    ]
    early = [Option("retrieval", 20, 0.0, 0.8), Option("original", 3, 3.0, 0.85)]
    chosen, _ = allocate([early, late], [1, 1], 3)
    assert [(option.source, option.shots) for option in chosen] == [("retrieval", 20), ("original", 3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 20)), max_size=3), min_size=1, max_size=4),
    st.integers(0, 20),
)
def test_no_budget_is_exceeded_and_the_greedy_answer_is_near_the_best(
    classes: list[list[tuple[int, int]]], budget: int
):
    options = [
        [Option("free", 1, 0.0, 0.0), *(Option("paid", n, float(n), v / 20) for n, v in each)] for each in classes
    ]
    chosen, left = allocate(options, [1.0] * len(options), budget)
    assert _spent(chosen) + left == pytest.approx(budget)
    assert left >= 0
    best = max(
        sum(option.value for option in each) for each in itertools.product(*options) if _spent(list(each)) <= budget
    )
    # greedy on hulls loses less than one step
    assert sum(option.value for option in chosen) >= best - 1.0 - 1e-9


def test_errors_fall_by_a_power_of_the_shots_that_the_pilot_shows():
    curve = fit_curve(np.full(4, 0.4), 5, np.full(4, 0.2), 20, num_images=4)
    assert curve.rate == pytest.approx(0.5)
    assert curve.at(20) == pytest.approx(np.full(4, 0.8))
    assert curve.at(80) == pytest.approx(np.full(4, 0.9))
    flat = fit_curve(np.full(4, 0.2), 5, np.full(4, 0.3), 20, num_images=4)
    assert flat.at(1000) == pytest.approx(np.full(4, 0.7))


def test_one_number_of_shots_shows_no_rate_and_more_shots_still_help():
    curve = fit_curve(np.full(2, 0.3), 1, np.full(2, 0.3), 1, num_images=2)
    assert curve.at(1)[0] < curve.at(16)[0] < 1


def test_a_class_is_shrunk_towards_its_data_set():
    curve = fit_curve(np.array([0.0, 1.0]), 1, np.array([0.0, 1.0]), 1, num_images=4)
    assert curve.error == pytest.approx([0.25, 0.75])


def test_options_cost_what_the_pilot_has_not_paid():
    curves = {"retrieval": Curve(np.array([0.5]), 20, 0.0), "original": Curve(np.array([0.2]), 3, 0.5)}
    found = options_of(curves, {"retrieval": 0.0, "original": 0.012}, {"retrieval": 20, "original": 4}, 30, 0)
    originals = [option for option in found if option.source == "original"]
    assert (originals[0].shots, originals[0].usd) == (4, 0.0)
    assert (originals[-1].shots, originals[-1].usd) == (30, pytest.approx(26 * 0.012))
    assert originals[-1].value > originals[0].value


def test_each_image_is_tried_on_the_others_alone():
    near = np.eye(4)[[0, 0, 1, 1, 1]].astype(np.float32)
    assert leave_one_out_errors(near, np.array([0, 0, 1, 1, 1]), 2).tolist() == [0, 0]
    # without itself a class of one has no centre; a class whose two images differ recognises neither
    apart = np.eye(4)[[0, 1, 2, 2]].astype(np.float32)
    assert leave_one_out_errors(apart, np.array([0, 0, 1, 1]), 2)[1] == 0
    assert leave_one_out_errors(np.eye(2, dtype=np.float32), np.array([0, 1]), 2).tolist() == [1, 1]


def test_a_class_without_images_is_all_wrong():
    train, labels = np.eye(3, dtype=np.float32)[:2], np.array([0, 1])
    assert errors_of(train, labels, np.eye(3, dtype=np.float32), np.arange(3), 3).tolist() == [0, 0, 1]


def test_what_is_left_is_spread_evenly_the_worst_class_first():
    have, most = np.array([4, 4, 10]), np.array([6, 50, 50])
    assert spread_evenly(have, most, np.array([0.1, 0.5, 0.9]), 1).tolist() == [4, 5, 10]
    assert spread_evenly(have, most, np.array([0.1, 0.5, 0.9]), 8).tolist() == [6, 10, 10]
    assert spread_evenly(have, most, np.zeros(3), 10_000).tolist() == [6, 50, 50]
    assert have.tolist() == [4, 4, 10]


def test_cheap_images_are_kept_unless_they_are_clearly_worse():
    assert worth_keeping(0.93, 0.97, 4)
    assert not worth_keeping(0.15, 0.75, 4)
    assert not worth_keeping(0.93, 0.97, 400)
