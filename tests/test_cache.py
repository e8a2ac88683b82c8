"""The cache of results: found again only when nothing has changed, and never trusted when it is damaged."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import cache
from engine.cache import cached_arrays, cached_value, digest

INPUTS: dict[str, Any] = {
    "features": np.arange(6, dtype=np.float32).reshape(2, 3),
    "labels": np.array([0, 1]),
    "texts": ["a", "b"],
    "image": b"pixels",
    "metric": "accuracy",
    "seed": 0,
    "share": 0.5,
    "nothing": None,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGEFOUNDRY_CACHE", str(tmp_path))
    return tmp_path


class Counted:
    """A computation that counts how often it ran."""

    def __init__(self, value: Any = None):
        self.value = {"score": 0.1 + 0.2} if value is None else value
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        return self.value


def value(compute: Counted, name: str = "scores", edition: int = 1, **changes: Any) -> Any:
    return cached_value(name, INPUTS | changes, compute, packages=("engine.evaluation",), edition=edition)


def test_the_second_call_reads_what_the_first_computed():
    compute = Counted({"score": 0.1 + 0.2, "none": None, "most": math.inf, "list": [1, 1e-300]})
    assert value(compute) == value(compute) == compute.value
    assert compute.times == 1


def test_the_first_call_returns_what_later_ones_read():
    compute = Counted({"pair": (1, 2), "unknown": math.nan})
    first, second = value(compute), value(compute)
    assert first["pair"] == second["pair"] == [1, 2]
    assert math.isnan(first["unknown"])
    assert math.isnan(second["unknown"])


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.arange(1, 7, dtype=np.float32).reshape(2, 3)},
        {"features": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"features": np.arange(6, dtype=np.int32).reshape(2, 3)},
        {"labels": np.array([1, 0])},
        {"texts": ["a", "b", "c"]},
        {"texts": ["ab"]},
        {"image": b"pixel"},
        {"metric": "mean_per_class"},
        {"seed": 1},
        {"seed": 0.0},
        {"seed": False},
        {"nothing": "None"},
        {"another": 1},
        {"name": "finetune"},
        {"edition": 2},
    ],
)
def test_any_changed_input_is_computed_anew(change: dict[str, Any]):
    compute = Counted()
    value(compute)
    value(compute, **change)
    assert compute.times == 2
    value(compute)
    assert compute.times == 2


def test_changed_code_is_computed_anew(monkeypatch: pytest.MonkeyPatch):
    compute = Counted()
    value(compute)
    monkeypatch.setattr(cache, "source_hash", lambda package: "another")
    value(compute)
    assert compute.times == 2


def test_another_torch_is_computed_anew(monkeypatch: pytest.MonkeyPatch):
    compute = Counted()
    value(compute)
    monkeypatch.setattr(cache, "_torch_version", lambda: "99")
    value(compute)
    assert compute.times == 2


def test_the_source_hash_is_of_the_packages_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashes = set()
    for number, text in enumerate(("a = 1\n", "a = 2\n")):
        (tmp_path / f"package_{number}").mkdir()
        (tmp_path / f"package_{number}" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = {cache.source_hash(f"package_{number}") for number in range(2)}
    assert len(hashes) == 2


@pytest.mark.parametrize("damage", ["", "{", "no newline", "check\n{}", "\x00\xff"])
def test_a_damaged_entry_is_computed_again(folder: Path, damage: str):
    compute = Counted()
    value(compute)
    (entry,) = (folder / "scores").iterdir()
    entry.write_bytes(damage.encode("latin-1"))
    assert value(compute) == value(compute) == compute.value
    assert compute.times == 2


def test_one_changed_digit_is_noticed(folder: Path):
    compute = Counted({"score": 0.75})
    value(compute)
    (entry,) = (folder / "scores").iterdir()
    entry.write_text(entry.read_text().replace("0.75", "0.85"))
    assert value(compute) == {"score": 0.75}


def test_two_that_write_at_once_leave_one_whole_entry(folder: Path):
    barrier = threading.Barrier(4)

    def compute() -> Any:
        barrier.wait()  # all have missed, and all write
        return {"score": 0.5}

    def call() -> None:
        found.append(cached_value("scores", INPUTS, compute, packages=("engine.evaluation",), edition=1))

    found: list[Any] = []
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"score": 0.5}] * 4
    assert len(list((folder / "scores").iterdir())) == 1
    assert value(Counted({"score": 0.0})) == {"score": 0.5}


def test_a_folder_that_cannot_be_written_costs_time_alone(folder: Path):
    (folder / "scores").write_text("a file where the folder should be")
    compute = Counted()
    assert value(compute) == value(compute) == compute.value
    assert compute.times == 2


def test_an_error_is_raised_and_not_kept():
    def fail() -> Any:
        raise ValueError("no row")

    with pytest.raises(ValueError, match="no row"):
        cached_value("scores", INPUTS, fail, packages=("engine.evaluation",), edition=1)
    assert value(Counted({"score": 1.0})) == {"score": 1.0}


def test_arrays_keep_every_bit(folder: Path):
    arrays = {"rows": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), "seconds": 0.1 + 0.2}
    compute = Counted(arrays)
    first, second = (cached_arrays("texts", INPUTS, compute, edition=1) for _ in range(2))
    assert compute.times == 1
    for found in (first, second):
        assert found["rows"].dtype == np.float32
        assert (found["rows"] == arrays["rows"]).all()
        assert float(found["seconds"]) == arrays["seconds"]
    cached_arrays("texts", INPUTS | {"seed": 5}, compute, edition=1)
    cached_arrays("texts", INPUTS, compute, edition=2)
    assert compute.times == 3


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_arrays_that_were_cut_off_are_computed_again(folder: Path, keep: int):
    compute = Counted({"rows": np.arange(100)})
    cached_arrays("texts", INPUTS, compute, edition=1)
    (entry,) = (folder / "texts").iterdir()
    entry.write_bytes(entry.read_bytes()[:keep])
    found = cached_arrays("texts", INPUTS, compute, edition=1)
    assert (found["rows"] == np.arange(100)).all()
    assert compute.times == 2


def test_an_array_that_is_no_block_of_memory_counts_by_its_values():
    rows = np.arange(12).reshape(3, 4)
    assert digest(rows.T) == digest(np.ascontiguousarray(rows.T)) != digest(rows)
    assert digest(np.zeros((0, 3))) != digest(np.zeros((3, 0)))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_equal_hashes_are_of_equal_values(left: Any, right: Any):
    assert (digest(left) == digest(right)) == (repr(left) == repr(right) or _same(left, right))


def _same(left: Any, right: Any) -> bool:
    """Equal, types included; the order of a mapping does not count."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return repr(left) == repr(right)


def test_what_has_no_hash_is_refused():
    with pytest.raises(TypeError, match="object has no hash here"):
        digest({"features": object()})
    with pytest.raises(TypeError, match="ndarray has no hash here"):
        digest(np.array([object()]))
