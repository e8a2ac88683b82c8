"""The accounts of a study's data, its errors by their reasons, and the end of a run that lost too much."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.failures import RunFailed
from engine.sources import OriginalPlan
from engine.studies.losses import account_lines, account_rows, check_losses, group_errors, lost_rows
from engine.testing.data import write_pool
from tests.catalog.trees import samples, table, write_files, write_shards, write_tables


def test_rows_and_lines_account_for_data_sets_and_pool(tmp_path: Path):
    folder = write_files(
        tmp_path / "pets",
        ["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg", ".hidden", "test/dog/1.jpg -> /nowhere"],
    )
    pool = write_pool(tmp_path / "web", ("cat", "dog"), count=4)
    datasets = [load_dataset(str(folder))]
    assert [
        (row["dataset"], row["split"], row["verdict"], row["reason"], row["count"])
        for row in account_rows(datasets, str(pool))
    ] == [
        ("pets", "train", "used", "", 2),
        ("pets", "test", "used", "", 1),
        ("pets", "test", "refused", "a link to nothing", 1),
        ("pets", "", "ignored", "hidden", 1),
        ("web", "train", "used", "", 4),
        ("web", "", "ignored", "a list or a description", 1),
    ]
    assert list(account_lines(datasets, str(pool), ("test",))) == [
        "pets: 1 used, 3 ignored (of split train, which is not used: 2; hidden: .hidden), 1 refused (a link to nothing: "
        "test/dog/1.jpg)",
        "web: 4 used, 1 ignored (a list or a description: train/nshards.txt)",
    ]


def test_a_line_says_that_validation_stands_in(tmp_path: Path):
    folder = write_tables(
        tmp_path / "pets",
        {"train.parquet": table([0, 1]), "validation.parquet": table([0, 1]), "test.parquet": table([-1, -1])},
    )
    (line,) = account_lines([load_dataset(str(folder))])
    assert line.endswith("validation stands in for test")


def test_equal_reasons_are_one_row_whatever_file_they_name():
    keys = ("cat/2.jpg:0:9:", "cat/1.jpg:0:7:", "train/0.tar:512:9:s1", "")
    names = ("cat/2.jpg: ", "cat/1.jpg: ", "train/0.tar: s1: ", "")
    errors = [
        {
            "id": f"{4 - number}",
            "stage": "make",
            "source": "original",
            "dataset": "pets",
            "reason": f"{name}empty",
            "key": key,
        }
        for number, (key, name) in enumerate(zip(keys, names, strict=True))
    ]
    assert group_errors(errors) == [
        {
            "stage": "make",
            "source": "original",
            "dataset": "pets",
            "reason": "empty",
            "count": 4,
            "example_id": "1",
            "examples": "train/0.tar: s1, cat/1.jpg",
        }
    ]


def test_an_address_that_could_not_be_fetched_is_its_own_name():
    error = {"stage": "fetch", "source": "retrieval", "dataset": "pets", "reason": "status 404"}
    addresses = ("http://127.0.0.1:8080/a:b/1.jpg", "https://pets.example/2.jpg")
    (row,) = group_errors(error | {"id": str(n), "key": address} for n, address in enumerate(addresses))
    assert row["count"] == 2
    assert row["examples"] == ", ".join(addresses)


def test_images_that_no_plan_can_name_are_rows_of_errors_too(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1, 0, 1, "--1"]), "test": samples([0, 1])})
    dataset = load_dataset(str(folder))
    plans = [OriginalPlan(dataset, 2), OriginalPlan(dataset, 1, seed=1), OriginalPlan(dataset, None, split="test")]
    assert lost_rows(plans) == [
        {
            "stage": "index",
            "source": "original",
            "dataset": "pets",
            "reason": "its label is not a class index; write a number from 0 into every .cls",
            "count": 1,
            "example_id": "",
            "examples": "train/0.tar: s4.png ('--1')",
        }
    ]


class _Table:
    """As much of a workspace as its losses take."""

    def __init__(self, done: set[str], failed: dict[str, str], rejected: dict[str, str]):
        import pyarrow as pa

        self._done, self._rejected = done, set(rejected)
        reasons = failed | rejected
        self._errors = pa.table({"id": list(reasons), "reason": list(reasons.values())})

    def errors(self):
        return self._errors

    def done_ids(self, rejected_by: Sequence[str] = ()):
        return _Table(self._done | (self._rejected if "contrast" in rejected_by else set()), {}, {})

    def contains(self, ids: list[str]):
        import numpy as np

        return np.array([name in self._done for name in ids])


@pytest.mark.parametrize(
    ("num_failed", "max_errors", "is_told"),
    [(0, 0.2, False), (3, 0.2, False), (4, 0.2, True), (6, 0.2, True), (4, 1.0, False), (6, 1.0, True)],
)
def test_a_run_that_lost_all_or_too_much_of_a_kind_fails(
    tmp_path: Path, num_failed: int, max_errors: float, is_told: bool
):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1] * 5), "test": samples([0, 1] * 3)})
    dataset = load_dataset(str(folder))
    test, train = OriginalPlan(dataset, None, split="test"), OriginalPlan(dataset, 5)
    ids = [test[number].id for number in range(6)]
    done = {train[number].id for number in range(10)} | set(ids[num_failed:])
    workspace = _Table(done, dict.fromkeys(ids[:num_failed], "a.png: empty"), {})
    if not is_told:
        check_losses(workspace, [train, test], max_errors, "report/index.html")
        return
    with pytest.raises(
        RunFailed, match=rf"{num_failed} of 6 test original images of pets failed, one of them with: a\.png: empty"
    ):
        check_losses(workspace, [train, test], max_errors, "report/index.html")


def test_a_rejected_image_is_not_lost(tmp_path: Path):
    folder = write_shards(tmp_path / "pets", {"train": samples([0, 1] * 5), "test": samples([0, 1] * 3)})
    plan = OriginalPlan(load_dataset(str(folder)), 5)
    ids = [plan[number].id for number in range(10)]
    all_flat = _Table(set(), {}, dict.fromkeys(ids, "contrast 0.0 is below 2"))
    check_losses(all_flat, [plan], 0.0, "report/index.html", {"contrast"})
    with pytest.raises(RunFailed, match="10 of 10 train original images of pets failed"):
        check_losses(all_flat, [plan], 0.2, "report/index.html", {"keep bright"})  # no stage that rejected them
    some_failed = _Table(
        set(), dict.fromkeys(ids[:6], "a.png: empty"), dict.fromkeys(ids[6:], "contrast 0.0 is below 2")
    )
    with pytest.raises(RunFailed, match=r"6 of 10 .* one of them with: a\.png: empty"):
        check_losses(some_failed, [plan], 0.2, "report/index.html", {"contrast"})
