"""The lock of a workspace on S3; the clocks are the test's."""

import json
import threading

import pytest

from engine.store import Workspace, WorkspaceLost, lock, object_lock
from engine.store.object_lock import ObjectLock

from .helpers import add, image_rows

OWNER = {"run_id": "first", "pid": 1, "host": "h", "started": "now"}


@pytest.fixture
def place(bucket, request):
    return f"{bucket}/{request.node.name}"


def content(place):
    import s3fs

    return json.loads(s3fs.S3FileSystem(skip_instance_cache=True).cat_file(f"{place}/.lock"))


def new(place, run_id, **options):
    return ObjectLock(place, lock.LOCK_NAME, OWNER | {"run_id": run_id}, **options)


def test_one_of_two_gets_the_lock_and_the_other_is_told_who_has_it(place):
    first, second = new(place, "first"), new(place, "second")
    first.acquire()
    with pytest.raises(ValueError, match=r"run first \(pid 1 on h, started now\) is writing .* start again 60 seconds"):
        second.acquire()
    assert first.renew()
    first.release()
    second.acquire()
    assert content(place)["run_id"] == "second"
    with pytest.raises(ValueError, match="run second"):
        first.acquire()


def test_a_stale_lock_is_taken_over_once_and_its_owner_notices(place, monkeypatch):
    dead, first, second = new(place, "dead"), new(place, "first"), new(place, "second")
    dead.acquire()
    monkeypatch.setattr(object_lock, "STALE_SECONDS", 0.0)
    stale = second._read()
    first.acquire()
    monkeypatch.setattr(second, "_read", lambda: stale)  # it looked before the first took over
    with pytest.raises(ValueError, match="is writing to workspace"):
        second.acquire()
    assert not dead.renew()
    dead.release()
    assert content(place)["run_id"] == "first"
    assert first.renew()


@pytest.fixture
def looks_old(monkeypatch):
    """A way to make a lock look a minute old by the store's clock."""

    def age(one):
        call = one._fs.call_s3

        def aged(method, **arguments):
            reply = call(method, **arguments)
            if method == "get_object":
                headers = reply["ResponseMetadata"]["HTTPHeaders"]
                headers |= {"date": "Thu, 01 Jan 2026 00:02:00 GMT", "last-modified": "Thu, 01 Jan 2026 00:01:00 GMT"}
            return reply

        monkeypatch.setattr(one._fs, "call_s3", aged)

    return age


def test_a_lock_that_is_old_by_the_stores_clock_and_silent_is_taken_over(place, looks_old, monkeypatch):
    now = [0.0]
    first, second = new(place, "first"), new(place, "second", clock=lambda: now[0])
    first.acquire()
    looks_old(second)
    monkeypatch.setattr(object_lock, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    second.acquire()
    assert now[0] >= lock.BEAT_SECONDS
    assert content(place)["run_id"] == "second"


def test_a_live_lock_that_looks_old_by_a_wrong_clock_is_left_alone(place, looks_old, monkeypatch):
    first, second = new(place, "first"), new(place, "second")
    first.acquire()
    looks_old(second)
    monkeypatch.setattr(object_lock, "sleep", lambda seconds: first.renew())
    with pytest.raises(ValueError, match="run first"):
        second.acquire()
    assert first.renew()


def test_each_owner_has_a_higher_token_than_the_one_before(place, monkeypatch):
    first, second, third = new(place, "first"), new(place, "second"), new(place, "third")
    first.acquire()
    first.release()
    second.acquire()
    monkeypatch.setattr(object_lock, "STALE_SECONDS", 0.0)
    third.acquire()
    assert (first.fence, second.fence, third.fence) == (1, 2, 3) == (1, 2, content(place)["fence"])
    assert not second.move(9)
    assert third.move(9)
    assert content(place)["fence"] == 9


@pytest.mark.parametrize("act", ["acquire", "renew"])
def test_an_answer_that_is_lost_does_not_lose_the_lock(place, monkeypatch, act):
    first = new(place, "first")
    if act == "renew":
        first.acquire()
    call = first._fs.call_s3

    def lost_answer(method, **arguments):
        call(method, **arguments)
        monkeypatch.setattr(first._fs, "call_s3", call)
        raise OSError("connection reset")

    monkeypatch.setattr(first._fs, "call_s3", lost_answer)
    if act == "acquire":
        with pytest.raises(OSError, match="connection reset"):
            first.acquire()
        first.acquire()
    else:
        assert first.renew()
    assert first.renew()
    first.release()
    assert content(place)["released"]


def test_a_store_that_is_away_loses_the_lock_when_it_is_stale(place, monkeypatch):
    now = [100.0]
    first = new(place, "first", clock=lambda: now[0])
    first.acquire()

    def away(*_, **__):
        raise OSError("connection refused")

    monkeypatch.setattr(first._fs, "call_s3", away)
    now[0] = 159.0
    assert first.renew()
    now[0] = 160.0
    assert not first.renew()


def test_the_heartbeat_stops_a_run_whose_lock_is_gone(s3_workspace, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    entered, beaten = threading.Event(), threading.Event()

    def gone(self):
        if entered.is_set():
            beaten.set()
        return not entered.is_set()

    monkeypatch.setattr(ObjectLock, "renew", gone)
    with s3_workspace.lock("first"):
        entered.set()
        assert beaten.wait(60)
        for thread in threading.enumerate():
            if thread.name == "workspace-lock":
                thread.join(60)
        with pytest.raises(WorkspaceLost, match="another run took over workspace"):
            add(s3_workspace, image_rows(range(3)))
    assert s3_workspace.count() == 0


def test_a_lock_that_cannot_be_used_is_released(s3_workspace, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("engine.store.workspace.check_files", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError), s3_workspace.lock("first"):
            pass
    with Workspace.open(s3_workspace.uri).lock("second"):
        pass


def test_other_object_stores_are_refused():
    with pytest.raises(ValueError, match=r"workspace gs://b/w cannot be locked.*give a folder or a place on s3://"):
        new("gs://b/w", "first")
