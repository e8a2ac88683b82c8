import shutil

import lance
import pyarrow as pa
import pytest

from engine.store import RUN_SCHEMA, IdSet, Workspace, runs

from .helpers import _recipe as recipe_of
from .helpers import add, error_rows, image_rows, recipe_ids
from .test_workspace import RUN

WORK = dict.fromkeys(("stage", "source", "dataset", "strategy", "generator"), "x")
WORK |= {"rows": 3, "busy_seconds": 1.0, "usd_compute": 0.1, "usd_labels": 0.0, "fetched_bytes": 6}


def of_run(table, run_id, **columns):
    values = {"run_id": [run_id] * table.num_rows} | columns
    for name, value in values.items():
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.array(value, field.type))
    return table


def test_the_ledger_of_a_run_is_replaced_and_that_of_others_stays(workspace):
    workspace.put_ledger("a", [WORK, WORK | {"stage": "embed"}])
    workspace.put_ledger("b", [WORK])
    workspace.put_ledger("a", [WORK | {"rows": 9}, WORK | {"dataset": "y"}])
    workspace.put_ledger("a", [])
    rows = sorted(workspace.ledger().to_pylist(), key=lambda row: (row["run_id"], row["dataset"]))
    assert rows == [
        WORK | {"run_id": "a", "rows": 9},
        WORK | {"run_id": "a", "dataset": "y"},
        WORK | {"run_id": "b"},
    ]
    with pytest.raises(ValueError, match="no column 'colour'"):
        workspace.put_ledger("a", [WORK | {"colour": "red"}])


def test_a_killed_run_is_settled_from_what_it_left(workspace):
    for run_id, status in (("killed", "running"), ("early", "running"), ("done", "finished")):
        workspace.put_run(RUN | {"run_id": run_id, "status": status, "images": 77})
    add(workspace, of_run(image_rows(range(3)), "killed", device_seconds=[1, 2, 3], usd_compute=[0.5, 1, 1.5]))
    add(workspace, of_run(image_rows(range(3, 5)), "done"))
    add(workspace, of_run(error_rows(range(5, 7)), "killed", device_seconds=[2, 2]), "errors")
    cars = WORK | {name: recipe_of(0).as_dict()[name] for name in ("source", "dataset", "strategy", "generator")}
    reported = [cars | {"stage": "make", "busy_seconds": 3.0}, cars | {"stage": "embed"}]
    workspace.put_ledger(
        "killed", [*reported, WORK | {"stage": "mine", "source": ""}, WORK | {"stage": "make", "source": "lost"}]
    )
    workspace.put_ledger("early", [WORK | {"stage": "make"}])
    with workspace.lock("next"):
        assert sorted(workspace.settle_runs()) == ["early", "killed"]
        assert workspace.settle_runs() == []
    found_runs = {row["run_id"]: row for row in workspace.runs().to_pylist()}
    counts = {"images": 3, "errors": 2, "busy_seconds": 10.0, "usd_busy": 5.0, "status": "killed"}
    assert found_runs["killed"] == RUN | {"run_id": "killed"} | counts
    nothing = {"images": 0, "errors": 0, "busy_seconds": 0.0, "usd_busy": 0.0, "status": "killed"}
    assert found_runs["early"] == RUN | {"run_id": "early"} | nothing
    assert found_runs["done"]["images"] == 77
    ledger = {(row["run_id"], row["stage"], row["dataset"]): row for row in workspace.ledger().to_pylist()}
    found = {key[1:]: (row["rows"], row["busy_seconds"], row["usd_compute"]) for key, row in ledger.items()}
    assert found == {
        ("make", "cars"): (2, 4.5, 2.25),
        ("embed", "cars"): (2, 1.5, 0.75),
        ("make", "birds"): (1, 4.0, 2.0),
        ("mine", "x"): (3, 1.0, 0.1),
    }
    assert {key[0] for key in ledger} == {"killed"}
    assert ledger["killed", "make", "cars"]["fetched_bytes"] == 4  # of the two images that are there, of three reported


def test_a_run_that_failed_is_settled_alone(workspace):
    for run_id in ("failed", "other"):
        workspace.put_run(RUN | {"run_id": run_id, "status": "running", "images": 77})
    add(workspace, of_run(image_rows(range(3)), "failed"))
    with workspace.lock("failed"):
        assert workspace.settle_runs({"failed": "failed"}) == ["failed"]
    found = {row["run_id"]: (row["status"], row["images"]) for row in workspace.runs().to_pylist()}
    assert found == {"failed": ("failed", 3), "other": ("running", 77)}


def test_a_run_whose_ledger_could_not_be_written_is_settled_again(workspace, monkeypatch):
    workspace.put_run(RUN | {"run_id": "killed", "status": "running", "images": 1})
    add(workspace, of_run(image_rows(range(3)), "killed", device_seconds=[1, 2, 3]))
    real, failures = runs.put_ledger, [OSError("cut off")]

    def fails_once(*arguments):
        if failures:
            raise failures.pop()
        real(*arguments)

    monkeypatch.setattr(runs, "put_ledger", fails_once)
    with workspace.lock("next"):
        with pytest.raises(OSError, match="cut off"):
            workspace.settle_runs()
        assert workspace.settle_runs() == ["killed"]
    assert sum(row["rows"] for row in workspace.ledger().to_pylist()) == 3


def test_only_the_lock_says_which_runs_were_killed(workspace):
    with pytest.raises(AssertionError, match="hold the lock"):
        workspace.settle_runs()


@pytest.mark.parametrize("as_set", [True, False])
def test_an_error_that_was_tried_again_leaves_one_row(workspace, as_set, monkeypatch):
    monkeypatch.setattr("engine.store.runs.FEW_IDS", 2)
    add(workspace, of_run(error_rows(range(8)), "old"), "errors")
    add(workspace, of_run(error_rows(range(2)), "new"), "errors")
    tried = recipe_ids(range(5))
    with workspace.lock("new"):
        assert workspace.drop_old_errors(IdSet([tried]) if as_set else tried, "new") == 5
        add(workspace, error_rows([9]), "errors")
    assert sorted(workspace.errors("old")["seed"].to_pylist()) == [5, 6, 7]
    assert sorted(workspace.errors("new")["seed"].to_pylist()) == [0, 1]


def test_a_table_of_runs_of_an_older_release_gets_the_column(workspace):
    older = RUN_SCHEMA.remove(RUN_SCHEMA.get_field_index("planned"))
    shutil.rmtree(workspace.table_path("runs"))
    row = pa.Table.from_pylist([{name: value for name, value in RUN.items() if name in older.names}], schema=older)
    lance.write_dataset(row, workspace.table_uri("runs"))
    again = Workspace.open(workspace.uri)
    with again.lock("run-2"):
        again.put_run(RUN | {"run_id": "run-2", "planned": 7})
    assert {row["run_id"]: row["planned"] for row in again.runs().to_pylist()} == {"run-1": None, "run-2": 7}
