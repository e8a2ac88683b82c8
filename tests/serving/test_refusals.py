"""Refusals of the ingress: while a queue is known to be full, and not a moment longer than that."""

import asyncio
from contextlib import nullcontext

import pytest

from engine.serving.errors import ApiError
from engine.serving.refusals import LATEST_SECONDS, REFUSE_FOR_SECONDS, RETURNS_PER_ANSWER, RETURNS_PER_SECOND, Refusals
from tests.serving.helpers import Clock

FULL = ApiError(503, "the queue is full", code="queue_full", retry_after=3)


def asked(refusals: Refusals, outcome: BaseException | None = None) -> bool:
    """Whether a request reached the process, which answers or raises `outcome`."""
    reached = False
    with pytest.raises(ApiError) if outcome else nullcontext(), refusals.around():
        reached = True
        if outcome is not None:
            raise outcome
    return reached


def is_refused(refusals: Refusals) -> bool:
    """Whether a request is refused in the words of the process, without reaching it."""
    try:
        return not asked(refusals)
    except ApiError as error:
        return error.args[:3] == FULL.args[:3]


@pytest.fixture
def full(clock: Clock) -> Refusals:
    refusals = Refusals(clock)
    assert asked(refusals)
    assert asked(refusals, FULL)
    return refusals


def test_after_a_refusal_the_next_requests_are_refused_without_asking_for_a_moment(full: Refusals, clock: Clock):
    assert is_refused(full)
    clock.wait(REFUSE_FOR_SECONDS * 0.9)
    assert is_refused(full)
    clock.wait(REFUSE_FOR_SECONDS * 0.2)
    assert asked(full)
    assert asked(full)


@pytest.mark.parametrize("outcome", [None, asyncio.CancelledError(), ApiError(500, "broken"), ApiError(504, "late")])
def test_a_request_that_ends_leaves_a_place(clock: Clock, outcome: BaseException | None):
    refusals = Refusals(clock)
    running = refusals.around()
    running.__enter__()
    asked(refusals, FULL)
    assert is_refused(refusals)
    ends = outcome and (type(outcome), outcome, None)
    assert not running.__exit__(*(ends or (None, None, None)))
    assert asked(refusals)


def told(refusals: Refusals) -> float:
    """Seconds after which a refused request may come back."""
    with pytest.raises(ApiError) as caught, refusals.around():
        raise FULL
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_the_first_refused_are_told_what_the_queue_says(clock: Clock):
    refusals = Refusals(clock)
    assert [told(refusals) for _ in range(int(3 * RETURNS_PER_SECOND))] == [3.0] * int(3 * RETURNS_PER_SECOND)


def test_a_crowd_comes_back_a_few_at_a_time(clock: Clock):
    refusals, returns = Refusals(clock), []
    clients = [0.0] * 150  # when each asks again
    for _ in range(600):
        clock.wait(0.1)
        for number, at in enumerate(clients):
            if at <= clock.now:
                clients[number] = clock.now + told(refusals)
                returns.append(clock.now)
    late = [at for at in returns if at > clock.now - 30]
    assert 0.5 * RETURNS_PER_SECOND <= len(late) / 30 <= 1.1 * RETURNS_PER_SECOND


def test_a_fast_server_calls_its_crowd_back_faster(clock: Clock):
    waits = {}
    for per_second in (0, 40):
        refusals = Refusals(clock)
        for _ in range(5 * per_second):
            clock.wait(1 / per_second)
            assert asked(refusals)
        waits[per_second] = [told(refusals) for _ in range(200)][-1]
    assert waits[0] == pytest.approx(199 / RETURNS_PER_SECOND)
    assert waits[40] == pytest.approx(199 / (40 * RETURNS_PER_ANSWER), rel=0.02)


def test_nobody_is_told_to_come_back_later_than_the_latest(clock: Clock):
    refusals = Refusals(clock)
    assert max(told(refusals) for _ in range(1_000)) == LATEST_SECONDS
    clock.wait(LATEST_SECONDS + 1)
    assert told(refusals) == 3.0
