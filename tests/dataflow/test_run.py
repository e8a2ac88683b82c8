"""Runs on a real local Ray: exactly the planned rows, whatever is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.costs import PriceBook
from engine.dataflow import run as run_module
from engine.dataflow import worker
from engine.dataflow.leases import Lease
from engine.dataflow.run import FillResult, Run
from engine.failures import RunFailed
from engine.images import decode_image
from engine.models import generator_spec
from engine.sources import GeneratorMaker
from engine.store import Workspace
from engine.testing.makers import PaintEncoder, PaintMaker, PaintPlan, die_once, load_paint_encoder, paint_embed

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def run_over(workspace: Workspace, **settings: Any) -> Run:
    settings = {"device": "cpu", "instance_name": "azure-e32ads-v5-spot"} | settings
    return Run(workspace, PriceBook.load(), **settings)


def fill(
    workspace: Workspace, num: int, maker: PaintMaker | None = None, num_read: int = 0, **settings: Any
) -> FillResult:
    stages = settings.pop("stages", [paint_embed()])
    with run_over(workspace, **settings) as run:
        return run.fill("paint", PaintPlan(num, num_read), maker or PaintMaker(), stages)


def committed(workspace: Workspace) -> list[str]:
    return workspace.scan(["id"]).read_all().column("id").to_pylist()


def assert_exactly_planned(workspace: Workspace, num: int, but: tuple[int, ...] = (), num_read: int = 0) -> None:
    plan = PaintPlan(num, num_read)
    assert sorted(committed(workspace)) == sorted(plan[index].id for index in range(num) if index not in but)


def test_a_plan_becomes_priced_embedded_rows_and_errors(workspace: Workspace):
    result = fill(workspace, 30, PaintMaker(bad_seeds=(3, 17)))
    assert result == FillResult(planned=30, present=0, made=28, errors=2)
    rows = workspace.fetch([PaintPlan(30)[5].id], workspace.image_schema().names).to_pylist()
    (row,) = rows
    assert (decode_image(row["image"]) == 5).all()
    assert np.isclose(np.linalg.norm(row[workspace.image_schema().names[-1]]), 1, atol=1e-5)
    assert row["device_seconds"] > 0
    # one of 32 CPUs of the instance named above at 0.21 USD per hour
    assert row["usd_compute"] == pytest.approx(row["device_seconds"] * 0.21 / 3600 / 32)
    assert (row["usd_labels"], row["batch_size"], row["device"]) == (0.0, 4, "cpu")
    errors = workspace.errors().to_pylist()
    assert sorted(error["seed"] for error in errors) == [3, 17]
    assert {error["reason"] for error in errors} == {"this colour does not exist"}
    (run,) = workspace.runs().to_pylist()
    assert (run["status"], run["images"], run["errors"], run["planned"]) == ("finished", 28, 2, 30)
    assert run["usd_billed"] > run["usd_busy"] > 0
    ledger = {entry["stage"]: entry for entry in workspace.ledger().to_pylist()}
    assert ledger["make"]["rows"] == ledger["embed"]["rows"] == 28
    assert ledger["make"]["busy_seconds"] + ledger["embed"]["busy_seconds"] == pytest.approx(run["busy_seconds"])
    # again: nothing is made but what failed, and that only if it can be made now
    assert fill(workspace, 30) == FillResult(planned=30, present=28, made=2)
    assert_exactly_planned(workspace, 30)
    assert not workspace.errors().num_rows


def test_a_recipe_that_fails_again_is_one_error_row(workspace: Workspace):
    for present in (0, 19):
        result = fill(workspace, 20, PaintMaker(bad_seeds=(3,)))
        assert (result.present, result.errors) == (present, 1)
    assert workspace.errors().column("seed").to_pylist() == [3]


def test_a_second_encoder_fills_its_column_of_the_rows_there(workspace: Workspace):
    fill(workspace, 10, num_read=5)
    both = [paint_embed(), paint_embed("other")]
    assert fill(workspace, 16, num_read=5, stages=both) == FillResult(planned=16, present=10, made=6, updated=10)
    assert_exactly_planned(workspace, 16, num_read=5)
    ids = [PaintPlan(16, 5)[index].id for index in range(16)]
    both = workspace.fetch(ids, ["embedding_paint_encoder", "embedding_other"])
    assert all(abs(np.linalg.norm(vector) - 1) < 1e-5 for vector in both["embedding_other"].to_pylist())
    first = np.array(both["embedding_paint_encoder"].to_pylist()[:10])
    assert np.allclose(first, np.array(both["embedding_other"].to_pylist()[:10]))


def test_embedding_makes_no_image(workspace: Workspace):
    fill(workspace, 10)
    ids = [PaintPlan(16)[index].id for index in range(16)]
    other: Any = PaintEncoder("other")
    with run_over(workspace) as run:
        assert run.embed(other, ids, load_encoder=load_paint_encoder) == 10
        assert run.embed(other, PaintPlan(16), load_encoder=load_paint_encoder) == 0
    assert_exactly_planned(workspace, 10)


def test_a_killed_worker_loses_nothing(workspace: Workspace, tmp_path: Path):
    marker = tmp_path / "killed"
    result = fill(workspace, 60, PaintMaker(kill_once=str(marker)), num_read=20)
    assert marker.exists()
    assert (result.made, result.errors) == (60, 0)
    assert_exactly_planned(workspace, 60, num_read=20)


def test_a_recipe_that_kills_its_process_is_one_error_row_and_its_companions_are_made(workspace: Workspace):
    result = fill(workspace, 40, PaintMaker(poison_seeds=(23,)), num_read=12)
    assert (result.made, result.errors) == (39, 1)
    assert_exactly_planned(workspace, 40, but=(23,), num_read=12)
    (error,) = workspace.errors().to_pylist()
    assert error["seed"] == 23
    assert "process died each time" in error["reason"]


class DyingWorker(worker.Worker):
    """Writes a fragment and dies before it can hand back its receipt, once."""

    def _write_rows(self, rows: Any) -> worker.Report:
        report = super()._write_rows(rows)
        die_once(os.environ["DIE_ONCE"])
        return report


class RepeatingWorker(worker.Worker):
    """Hands the receipts of its first lease back twice, as one does whose answer was lost."""

    def make(self, lease: Lease, *rest: Any) -> worker.Report:
        report = super().make(lease, *rest)
        if not hasattr(self, "_first"):
            self._first = report
            return report
        return replace(report, receipts=report.receipts + self._first.receipts)


def test_a_worker_killed_between_write_and_receipt_leaves_no_second_copy(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    marker = tmp_path / "killed"
    monkeypatch.setattr("engine.dataflow.pool.Worker", dying_worker(str(marker)))
    assert fill(workspace, 40).made == 40
    assert marker.exists()
    assert_exactly_planned(workspace, 40)


def dying_worker(marker: str) -> type[worker.Worker]:
    class Marked(DyingWorker):
        def load(self, *arguments: Any) -> Any:
            os.environ["DIE_ONCE"] = marker
            return super().load(*arguments)

    return Marked


def test_a_receipt_that_comes_twice_adds_no_row(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.dataflow.pool.Worker", RepeatingWorker)
    assert fill(workspace, 40).made == 40
    assert_exactly_planned(workspace, 40)


class ForgetfulWorker(worker.Worker):
    """Says that it wrote, and loses the receipt of one write."""

    def flush(self) -> worker.Report:
        report = super().flush()
        if not hasattr(self, "_lost"):
            self._lost = True
            return worker.Report()
        return report


def test_recipes_without_a_receipt_are_made_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.dataflow.pool.Worker", ForgetfulWorker)
    assert fill(workspace, 40).made == 40
    assert_exactly_planned(workspace, 40)


class LyingWorker(worker.Worker):
    """Loses every receipt."""

    def make(self, *arguments: Any) -> worker.Report:
        return replace(super().make(*arguments), receipts=[])

    def flush(self) -> worker.Report:
        super().flush()
        return worker.Report()


def test_a_run_that_is_not_complete_says_what_is_missing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.dataflow.pool.Worker", LyingWorker)
    with pytest.raises(RunFailed, match="40 of 40 recipes were neither made nor failed"):
        fill(workspace, 40)
    assert [run["status"] for run in workspace.runs().to_pylist()] in ([], ["failed"])


def test_a_run_that_mostly_fails_stops_and_says_why(workspace: Workspace):
    with pytest.raises(RunFailed, match="60 of 60 recipes failed, more than 50%, the last of them with: this colour"):
        fill(workspace, 60, PaintMaker(bad_seeds=tuple(range(60))))
    with pytest.raises(RunFailed, match=r"recipes failed, more than 20%"):
        fill(workspace, 4_000, PaintMaker(bad_seeds=tuple(range(0, 4_000, 3))))
    assert workspace.count() < 2_000
    assert fill(workspace, 60, PaintMaker(bad_seeds=tuple(range(60))), max_errors=1.0).errors > 0


def test_one_failed_commit_stops_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    import lance

    commit, failures = lance.LanceDataset.commit, iter([OSError("503 Slow Down")] * 2)

    def shaky(*arguments: Any, **named: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return commit(*arguments, **named)

    with run_over(workspace, commit_every_seconds=0.0) as run:
        monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(shaky))
        assert run.fill("paint", PaintPlan(60), PaintMaker(), [paint_embed()]).made == 60
    assert next(failures, None) is None
    assert_exactly_planned(workspace, 60)


def test_a_failed_compaction_is_a_warning(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Workspace, "compact", full)
    assert fill(workspace, 12).made == 12
    assert "warning: the table was not compacted (No space left on device)" in capsys.readouterr().err
    assert [run["status"] for run in workspace.runs().to_pylist()] == ["finished"]


def test_nothing_to_do_starts_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    fill(workspace, 12)

    def never(*arguments: Any) -> None:
        raise AssertionError("Ray was connected")

    monkeypatch.setattr(run_module.RayConnection, "connect", never)
    assert fill(workspace, 12) == FillResult(planned=12, present=12)
    assert workspace.runs().num_rows == 1


def test_a_run_that_cannot_begin_frees_the_workspace(workspace: Workspace):
    fill(workspace, 4)
    wider = replace(paint_embed(), dimension=5)
    with pytest.raises(ValueError, match=r"column embedding_paint_encoder of type fixed_size_list.*\[4\], not .*\[5\]"):
        fill(workspace, 8, stages=[wider])
    assert fill(workspace, 8).made == 4


def start_driver(workspace: Workspace, num: int, *flags: str) -> subprocess.Popen[str]:
    """A run in another process that has committed some rows and not all."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_worker_niceness"] = "0"
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.dataflow.driver", "--workspace", workspace.uri, "--num", str(num), *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while workspace.count() < 8 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert driver.poll() is None, driver.communicate()[1]
    assert 8 <= workspace.count() < num
    return driver


def test_a_killed_driver_loses_nothing_is_billed_and_frees_the_workspace(workspace: Workspace):
    driver = start_driver(workspace, 600)
    with pytest.raises(ValueError, match=r"writ|run"):
        fill(workspace, 10)
    driver.kill()
    driver.communicate()
    kept = set(committed(workspace))
    assert 8 <= len(kept) < 600
    assert fill(workspace, 600).present == len(kept)
    assert_exactly_planned(workspace, 600)
    assert kept <= set(committed(workspace))
    runs = {run["status"]: run for run in workspace.runs().to_pylist()}
    if "killed" in runs:  # it had a row, which is renewed every 15 s
        assert runs["killed"]["images"] == len(kept)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_signal_commits_and_says_how_to_go_on(workspace: Workspace, number: int, code: int, word: str):
    driver = start_driver(workspace, 600)
    driver.send_signal(number)
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == code, said
    assert f"{word}. What was committed stays; run the same command again to go on." in said
    assert "Traceback" not in said
    ids = committed(workspace)
    assert 8 <= len(ids) < 600
    assert len(set(ids)) == len(ids)
    assert [run["status"] for run in workspace.runs().to_pylist()] == ["interrupted"]


def test_a_killed_raylet_is_one_sentence_and_loses_nothing(workspace: Workspace):
    driver = start_driver(workspace, 600)
    (raylet,) = [pid for pid, line in processes_below(driver.pid) if re.search(r"/raylet/raylet\b", line)]
    os.kill(raylet, signal.SIGKILL)
    said = driver.communicate(timeout=180)[1]
    assert driver.returncode == 3, said
    assert "run the same command again to go on" in said
    ids = committed(workspace)
    assert len(set(ids)) == len(ids)
    assert fill(workspace, 600).present == len(ids)
    assert_exactly_planned(workspace, 600)


def processes_below(pid: int) -> list[tuple[int, str]]:
    """Process ids and command lines of all descendants."""
    import psutil

    return [(child.pid, " ".join(child.cmdline())) for child in psutil.Process(pid).children(recursive=True)]


def test_what_a_worker_cannot_load_is_one_sentence(workspace: Workspace):
    with pytest.raises(ValueError, match=r"^the weights are missing; download them again$"):
        fill(workspace, 10, PaintMaker(load_error="the weights are missing; download them again"))
    assert workspace.count() == 0


def load_never(source: str, **options: Any) -> Any:
    raise AssertionError("the encoder was loaded")


def test_a_generator_too_large_for_its_device_is_told_with_both_sizes_before_anything_is_loaded(workspace: Workspace):
    spec = replace(generator_spec("sd21"), parameters=1e15)
    stage = paint_embed()
    stage.load_encoder = load_never
    said: list[str] = []
    needs = r"generator sd21 needs \d+\.0 GB for its weights in \w+, and cpu has \d+\.\d GB; use a smaller"
    with run_over(workspace, say=said.append) as run, pytest.raises(ValueError, match=needs):
        run.fill("large", PaintPlan(1000), GeneratorMaker(spec, 2, spec.num_gpus, needs_gpu=spec.needs_gpu), [stage])
    assert not workspace.count()
    (warning,) = [line for line in said if line.startswith("warning")]
    assert "sd21 on a processor takes about" in warning
    assert "per image, and up to 1,000 images by 1 worker " in warning


def test_workers_that_die_while_they_start_end_the_run(workspace: Workspace):
    with pytest.raises(RunFailed, match="6 workers in a row died while they started"):
        fill(workspace, 10, PaintMaker(dies_while_loading=True))
