"""Runs on a real local Ray: exactly the planned rows, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engine.costs import PriceBook
from engine.dataflow import stream
from engine.dataflow.run import FillResult, Run
from engine.images import decode_image
from engine.models import ImageEncoder, load_encoder
from engine.store import Workspace
from tests import tiny
from tests.dataflow.paint import DyingWriter, PaintMaker, PaintPlan

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoder(tiny_encoder: str) -> ImageEncoder:
    return load_encoder(tiny_encoder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def fill(workspace: Workspace, encoder: ImageEncoder, num: int, maker: PaintMaker | None = None) -> FillResult:
    with Run(workspace, encoder, PriceBook.load()) as run:
        return run.fill("paint", PaintPlan(num), maker or PaintMaker())


def committed(workspace: Workspace) -> list[str]:
    return workspace.scan(["id"]).read_all().column("id").to_pylist()


def assert_exactly_planned(workspace: Workspace, num: int) -> None:
    assert sorted(committed(workspace)) == sorted(PaintPlan(num)[index].id for index in range(num))


def test_a_plan_becomes_priced_embedded_rows_and_errors(workspace: Workspace, encoder: ImageEncoder):
    result = fill(workspace, encoder, 30, PaintMaker(bad_seeds=(3, 17)))
    assert result == FillResult(planned=30, present=0, made=28, errors=2)
    rows = workspace.fetch([PaintPlan(30)[5].id], workspace.image_schema().names).to_pylist()
    (row,) = rows
    assert (decode_image(row["image"]) == 5).all()
    assert np.isclose(np.linalg.norm(row[workspace.image_schema().names[-1]]), 1, atol=1e-5)
    assert row["device_seconds"] > 0
    # one of 32 CPUs of the price book's default CPU instance at 0.21 USD an hour
    assert row["usd_compute"] == pytest.approx(row["device_seconds"] * 0.21 / 3600 / 32)
    assert (row["usd_labels"], row["batch_size"], row["device"]) == (0.0, 4, "cpu")
    errors = workspace.errors().to_pylist()
    assert sorted(error["seed"] for error in errors) == [3, 17]
    assert {error["reason"] for error in errors} == {"this colour does not exist"}
    (run,) = workspace.runs().to_pylist()
    assert (run["status"], run["images"], run["errors"]) == ("finished", 28, 2)
    assert run["usd_billed"] > run["usd_busy"] > 0
    ledger = {entry["stage"]: entry for entry in workspace.ledger().to_pylist()}
    assert ledger["make"]["rows"] == ledger["embed"]["rows"] == 28
    assert ledger["make"]["busy_seconds"] + ledger["embed"]["busy_seconds"] == pytest.approx(run["busy_seconds"])
    # again: nothing is made but what failed, and that only if it can be made now
    assert fill(workspace, encoder, 30) == FillResult(planned=30, present=28, made=2)
    assert_exactly_planned(workspace, 30)


def test_a_second_encoder_fills_its_column_of_the_rows_there(
    workspace: Workspace, encoder: ImageEncoder, tmp_path: Path
):
    fill(workspace, encoder, 10)
    other = load_encoder(str(tiny.save_encoder(tmp_path / "other", seed=5, dimension=24)))
    assert fill(workspace, other, 16) == FillResult(planned=16, present=10, made=6, embedded=10)
    assert_exactly_planned(workspace, 16)
    ids = [PaintPlan(16)[index].id for index in range(16)]
    column = next(name for name, dimension in workspace.encoders().items() if dimension == 24)
    vectors = np.stack(workspace.fetch(ids, [column]).column(column).to_pylist())
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_killed_actor_loses_nothing(workspace: Workspace, encoder: ImageEncoder, tmp_path: Path):
    marker = tmp_path / "killed"
    result = fill(workspace, encoder, 60, PaintMaker(kill_once=str(marker)))
    assert marker.exists()
    assert result.made == 60
    assert_exactly_planned(workspace, 60)


def test_a_writer_killed_before_its_receipt_leaves_no_second_copy(
    workspace: Workspace, encoder: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    marker = tmp_path / "killed"
    monkeypatch.setattr(stream, "write_block", DyingWriter(str(marker)))
    fill(workspace, encoder, 40)
    assert marker.exists()
    assert_exactly_planned(workspace, 40)


def start_driver(workspace: Workspace, encoder: ImageEncoder, num: int) -> subprocess.Popen[str]:
    """A run in another process that has committed some rows and not all."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.dataflow.driver",
            "--workspace",
            workspace.uri,
            "--encoder.name",
            encoder.name,
            "--encoder.dimension",
            str(encoder.dimension),
            "--encoder.source",
            encoder.source,
            "--num",
            str(num),
        ],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while workspace.count() < 8 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert driver.poll() is None, driver.communicate()[1]
    assert 8 <= workspace.count() < num
    return driver


def test_a_killed_driver_loses_nothing_and_frees_the_workspace(workspace: Workspace, encoder: ImageEncoder):
    driver = start_driver(workspace, encoder, 600)
    with pytest.raises(ValueError, match=r"writ|run"):
        fill(workspace, encoder, 10)
    driver.kill()
    driver.communicate()
    kept = set(committed(workspace))
    assert 8 <= len(kept) < 600
    assert fill(workspace, encoder, 600).present == len(kept)
    assert_exactly_planned(workspace, 600)
    assert kept <= set(committed(workspace))


def test_an_interrupt_commits_and_says_how_to_go_on(workspace: Workspace, encoder: ImageEncoder):
    driver = start_driver(workspace, encoder, 600)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 130
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    ids = committed(workspace)
    assert 8 <= len(ids) < 600
    assert len(set(ids)) == len(ids)
    assert [run["status"] for run in workspace.runs().to_pylist()] == ["interrupted"]


def test_what_a_worker_cannot_load_is_one_sentence(workspace: Workspace, encoder: ImageEncoder):
    with pytest.raises(ValueError, match=r"^the weights are missing; download them again$"):
        fill(workspace, encoder, 10, PaintMaker(load_error="the weights are missing; download them again"))
    assert workspace.count() == 0
