"""Admission: images per minute and dollars of each key, with a clock that tests move."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.admission import Admission, duration, spent_from
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.store import Workspace
from tests.serving.helpers import Clock, add_requests

ADA = Caller("key-a", "ada", rate_per_minute=30)
BOB = Caller("key-b", "bob", rate_per_minute=30)
RICH = Caller("key-c", "cid", budget_usd=1.0)


def refused(admission: Admission, caller: Caller, images: int) -> ApiError:
    with pytest.raises(ApiError) as error:
        admission.admit(caller, images)
    return error.value


def test_the_headers_say_what_is_left_of_the_rate(clock: Clock):
    admission = Admission({}, clock)
    assert admission.admit(ADA, 10) == {
        "x-ratelimit-limit-requests": "30",
        "x-ratelimit-remaining-requests": "20",
        "x-ratelimit-reset-requests": "20s",
    }
    clock.wait(5)
    assert admission.headers(ADA)["x-ratelimit-remaining-requests"] == "22"
    assert admission.headers(ADA)["x-ratelimit-reset-requests"] == "15s"


def test_a_key_without_limits_is_always_admitted(clock: Clock):
    admission = Admission({"key-free": 1e9}, clock)
    free = Caller("key-free", "free")
    assert all(admission.admit(free, 10) == {} for _ in range(1000))


def test_a_used_up_rate_is_refused_until_there_is_room_again(clock: Clock):
    admission = Admission({}, clock)
    for _ in range(3):
        admission.admit(ADA, 10)
    error = refused(admission, ADA, 3)
    assert (error.status, error.code, error.retry_after) == (429, "rate_limit_exceeded", 6)
    assert error.body()["error"]["type"] == "rate_limit_error"
    assert error.headers() == {
        "retry-after": "6",
        "x-ratelimit-limit-requests": "30",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    assert pickle.loads(pickle.dumps(error)).headers() == error.headers()
    clock.wait(5.9)
    assert refused(admission, ADA, 3).retry_after == 1, "a client that comes at the time it was told must get in"
    clock.wait(0.1)
    admission.admit(ADA, 3)


def test_a_refused_request_takes_nothing(clock: Clock):
    admission = Admission({}, clock)
    admission.admit(ADA, 25)
    for _ in range(10):
        refused(admission, ADA, 10)
    admission.admit(ADA, 5)


def test_a_bucket_holds_a_minute_of_the_rate_and_no_more(clock: Clock):
    admission = Admission({}, clock)
    admission.admit(ADA, 30)
    clock.wait(3600)
    admission.admit(ADA, 30)
    refused(admission, ADA, 1)


def test_each_key_has_a_rate_of_its_own(clock: Clock):
    admission = Admission({}, clock)
    admission.admit(ADA, 30)
    admission.admit(BOB, 30)


def test_more_images_than_the_rate_are_a_bad_request_since_no_wait_would_help(clock: Clock):
    error = refused(Admission({}, clock), Caller("key-d", "dan", rate_per_minute=5), 10)
    assert (error.status, error.param, error.retry_after) == (400, "n", None)
    assert error.message == "n is 10, and this key may make 5 images per minute; ask for fewer"


def test_a_key_whose_dollars_are_spent_is_refused(clock: Clock):
    admission = Admission({"key-c": 0.5}, clock)
    admission.admit(RICH, 1)
    admission.charge("key-c", 0.4)
    admission.admit(RICH, 1)
    admission.charge("key-c", 0.1)
    error = refused(admission, RICH, 1)
    assert (error.status, error.code, error.retry_after) == (429, "insufficient_quota", None)
    clock.wait(1e6)
    refused(admission, RICH, 1)


def test_charges_do_not_change_what_the_caller_gave(clock: Clock):
    spent = {"key-c": 0.5}
    Admission(spent, clock).charge("key-c", 1.0)
    assert spent == {"key-c": 0.5}


def test_dollars_spent_are_summed_per_key(workspace: Workspace):
    assert spent_from(workspace) == {}
    rows = [("key-a", 0.25), ("key-b", 1.0), ("key-a", 0.5), ("key-a", 0.0)]
    add_requests(workspace, rows)
    assert spent_from(workspace) == {"key-a": 0.75, "key-b": 1.0}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 10)), max_size=60), st.integers(10, 100))
def test_no_stretch_of_time_has_more_images_than_the_bucket_and_its_refill(steps: list[tuple[float, int]], rate: int):
    clock, caller = Clock(), Caller("key-a", "ada", rate_per_minute=rate)
    admission = Admission({}, clock)
    start, made = clock.now, 0
    for wait, images in steps:
        clock.wait(wait)
        try:
            admission.admit(caller, images)
        except ApiError as error:
            clock.wait(error.retry_after or 0)
            admission.admit(caller, images)
        made += images
        assert made <= rate + (clock.now - start) * rate / 60 + 1e-6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.12, "120ms"),
        (0.9999, "1000ms"),
        (1, "1s"),
        (12.2, "13s"),
        (360, "6m0s"),
        (59.5, "1m0s"),
        (3605, "1h0m5s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str):
    assert duration(seconds) == text
