"""Refusals of the ingress: while a queue is known to be full, and not a moment longer than that."""

import asyncio
from contextlib import nullcontext

import pytest

from engine.serving.errors import ApiError
from engine.serving.refusals import REFUSE_FOR_SECONDS, Refusals
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
        return error.args == FULL.args


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
