"""API keys: what the table keeps of them, which are accepted, and how soon a server knows of a change."""

import hmac
import pickle
import re
import threading
from typing import Any

import pytest

from engine.serving.callers import Caller
from engine.serving.keys import OWN, KeyRing, add_key, hash_key, list_keys, new_key, own_key, revoke_key
from engine.store import Workspace
from tests.serving.helpers import Clock


def test_the_workspace_keeps_the_hash_of_a_key_and_nothing_else_of_it(workspace: Workspace):
    key, key_id = add_key(workspace, "ada", 30, 2.5)
    assert re.fullmatch(r"if-[A-Za-z0-9_-]{43}", key)
    (row,) = workspace.read("keys").to_pylist()
    assert (row["key_id"], row["name"], row["rate_per_minute"], row["budget_usd"]) == (key_id, "ada", 30, 2.5)
    assert re.fullmatch(r"[0-9a-f]{64}", row["hash"])
    files = [path.read_bytes() for path in workspace.table_path("keys").rglob("*") if path.is_file()]
    assert any(row["hash"].encode() in content for content in files)
    assert not any(key[3:].encode() in content for content in files)


def test_two_keys_differ(workspace: Workspace):
    assert len({new_key() for _ in range(100)}) == 100
    assert add_key(workspace, "ada") != add_key(workspace, "bob")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": " "}, "the name ' ' is invalid"),
        ({"name": "a\nb"}, r"the name 'a\\nb' is invalid"),
        ({"name": "a" * 101}, "give 1 to 100 printable characters"),
        ({"name": "a", "rate_per_minute": 0}, "rate_per_minute is 0; give 1"),
        ({"name": "a", "rate_per_minute": 2**31}, "rate_per_minute is 2147483648"),
        ({"name": "a", "budget_usd": 0.0}, "budget_usd is 0.0; give a positive number"),
        ({"name": "a", "budget_usd": float("nan")}, "budget_usd is nan"),
        ({"name": "a", "budget_usd": float("inf")}, "budget_usd is inf"),
    ],
)
def test_an_invalid_key_is_refused_and_not_written(workspace: Workspace, values: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        add_key(workspace, **values)
    assert list_keys(workspace) == []


def test_a_name_is_given_once_until_its_key_is_revoked(workspace: Workspace):
    _, first = add_key(workspace, "ada")
    with pytest.raises(ValueError, match="there is a key named 'ada'; give another name, or revoke that key first"):
        add_key(workspace, "ada")
    assert revoke_key(workspace, "ada") == first
    _, second = add_key(workspace, "ada")
    assert [(row["key_id"], row["revoked"]) for row in list_keys(workspace)] == [(first, True), (second, False)]


def test_a_key_is_revoked_by_name_or_id_and_only_once(workspace: Workspace):
    _, ada = add_key(workspace, "ada's")
    _, bob = add_key(workspace, "bob")
    assert revoke_key(workspace, "ada's") == ada
    assert revoke_key(workspace, bob) == bob
    with pytest.raises(ValueError, match="the key 'bob' is revoked already"):
        revoke_key(workspace, "bob")
    with pytest.raises(ValueError, match="the key 'eve' does not exist; `imagefoundry keys list` names all"):
        revoke_key(workspace, "eve")


def test_a_key_named_like_the_id_of_another_is_not_revoked_by_mistake(workspace: Workspace):
    _, ada = add_key(workspace, "ada")
    add_key(workspace, ada)
    with pytest.raises(ValueError, match="several keys are named"):
        revoke_key(workspace, ada)


def test_the_ring_finds_the_caller_of_a_key_with_its_limits(workspace: Workspace, clock: Clock):
    key, key_id = add_key(workspace, "ada", 30, 2.5)
    free, free_id = add_key(workspace, "bob")
    ring = KeyRing(workspace, clock=clock)
    assert ring.find(key) == ring.by_id(key_id) == Caller(key_id, "ada", 30, 2.5)
    assert ring.find(free) == Caller(free_id, "bob", None, None)
    for wrong in ("", key[:-1], key + "x", key_id, "if-é", "\udcff"):
        assert ring.find(wrong) is None
    assert ring.by_id("key-0") is None


def test_a_key_added_while_the_server_runs_is_known_within_a_second(workspace: Workspace, clock: Clock):
    ring = KeyRing(workspace, clock=clock)
    assert ring.find(new_key()) is None
    key, _ = add_key(workspace, "ada")
    clock.wait(0.9)
    assert ring.find(key) is None
    clock.wait(0.1)
    assert ring.find(key) is not None


def test_a_key_revoked_while_the_server_runs_is_refused_within_a_second(workspace: Workspace, clock: Clock):
    key, key_id = add_key(workspace, "ada")
    ring = KeyRing(workspace, clock=clock)
    assert ring.find(key) is not None
    revoke_key(Workspace.open(workspace.uri), "ada")
    clock.wait(1.0)
    assert ring.find(key) is None
    assert ring.by_id(key_id) is None


def test_the_table_is_read_once_per_second_however_many_keys_are_tried(
    workspace: Workspace, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    reads = []
    dataset = workspace.dataset
    monkeypatch.setattr(workspace, "dataset", lambda name: reads.append(name) or dataset(name))
    ring = KeyRing(workspace, clock=clock)
    for _ in range(5):
        ring.find("if-wrong")
        ring.by_id("key-0")
    assert reads == ["keys"]
    clock.wait(1.0)
    ring.find("if-wrong")
    assert reads == ["keys", "keys"]


def test_every_hash_is_compared_in_constant_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    keys = [add_key(workspace, name)[0] for name in ("ada", "bob", "cid")]
    ring = KeyRing(workspace, {hash_key("the-servers-own-key"): OWN})
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    for secret in (keys[0], keys[2], "the-servers-own-key", "if-wrong"):
        compared.clear()
        ring.find(secret)
        assert len(compared) == 4, "the search ended at a hit"
        assert all(len(a) == len(b) == 64 for a, b in compared)


def test_the_servers_own_key_is_in_no_table_and_the_ring_keeps_its_hash_alone(workspace: Workspace):
    ring = KeyRing(workspace, {hash_key("the-servers-own-key"): OWN})
    assert ring.find("the-servers-own-key") is ring.by_id("server") is OWN
    assert list_keys(workspace) == []
    assert "the-servers-own-key" not in str(vars(ring))
    assert b"the-servers-own-key" not in pickle.dumps(ring)


def test_a_ring_that_was_pickled_reads_the_table_itself(workspace: Workspace):
    ring = KeyRing(workspace, {hash_key("the-servers-own-key"): OWN})
    ring.find("x")
    key, _ = add_key(workspace, "ada")
    copy = pickle.loads(pickle.dumps(ring))
    assert copy.find(key) is not None
    assert copy.find("the-servers-own-key") == OWN


def test_keys_that_cannot_be_read_are_not_taken_for_known(
    workspace: Workspace, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    key, _ = add_key(workspace, "ada")
    ring = KeyRing(workspace, clock=clock)
    assert ring.find(key) is not None
    clock.wait(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "dataset", _fail)
        for _ in range(2):
            with pytest.raises(OSError, match="the bucket"):
                ring.find(key)
    assert ring.find(key) is not None


def test_threads_that_wait_for_a_slow_read_do_not_read_again(
    workspace: Workspace, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    reads, going_on, waiting = [], threading.Event(), threading.Barrier(4)
    dataset = workspace.dataset

    def slow(name: str) -> Any:
        reads.append(name)
        assert going_on.wait(60)
        clock.wait(5.0)
        return dataset(name)

    monkeypatch.setattr(workspace, "dataset", slow)
    ring = KeyRing(workspace, clock=_counted(clock, waiting))
    threads = [threading.Thread(target=ring.refresh) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait(60)  # all three have asked
    going_on.set()
    for thread in threads:
        thread.join(60)
    assert reads == ["keys"]


def _counted(clock: Clock, barrier: threading.Barrier) -> Any:
    """The clock, whose first call in each thread waits until all threads have called it."""
    seen = threading.local()

    def call() -> float:
        now = clock()
        if not getattr(seen, "asked", False):
            seen.asked = True
            barrier.wait(60)
        return now

    return call


def _fail(name: str) -> None:
    raise OSError("the bucket does not answer")


def test_the_own_key_comes_from_the_environment_or_is_made():
    assert own_key({"IMAGEFOUNDRY_API_KEY": "a-long-enough-key"}) == ("a-long-enough-key", False)
    key, is_new = own_key({})
    assert is_new
    assert key.startswith("if-")
    assert own_key({"IMAGEFOUNDRY_API_KEY": ""})[1]


@pytest.mark.parametrize("key", ["short", "a key with some spaces", "a-key-with-an-é-in-it", "a-key-with-a\nnewline"])
def test_an_own_key_that_is_not_safe_is_refused_without_saying_it(key: str):
    with pytest.raises(ValueError, match="IMAGEFOUNDRY_API_KEY is no safe key; give 16 or more") as error:
        own_key({"IMAGEFOUNDRY_API_KEY": key})
    assert key not in str(error.value)
