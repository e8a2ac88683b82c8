"""Stages beside a maker and over committed images: what they add, read and reject."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from engine.costs import PriceBook
from engine.dataflow.run import FillResult, Run
from engine.dataflow.stages import Stages
from engine.failures import RunFailed
from engine.models.preprocessing import Preprocessing
from engine.store import Workspace
from engine.testing.makers import PaintMaker, PaintPlan, paint_embed


@dataclass
class Brightness:
    """Adds the mean level of an image and a sentence about it."""

    name: str = "brightness"
    columns: pa.Schema = field(
        default_factory=lambda: pa.schema([("brightness", pa.float32()), ("caption", pa.string())])
    )
    inputs: tuple[str, ...] = ("class_name", "seed")
    num_gpus: float = 0.0
    needs_gpu: bool = False
    rejects: bool = False
    preprocessing: Preprocessing | None = None

    def load(self, device: str) -> None:
        self.device = device

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        levels = [float(image.float().mean()) for image in pixels]
        assert levels == [seed % 256 for seed in block.column("seed").to_pylist()]
        names = block.column("class_name").to_pylist()
        captions = [f"{name} of {level:.0f}" for name, level in zip(names, levels, strict=True)]
        return pa.RecordBatch.from_pydict({"brightness": levels, "caption": captions}, schema=self.columns)


@dataclass
class KeepBright:
    """Rejects images that are darker than a level; reads what another stage has added."""

    least: float
    name: str = "keep bright"
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    inputs: tuple[str, ...] = ("brightness",)
    num_gpus: float = 0.0
    needs_gpu: bool = False
    rejects: bool = True
    preprocessing: Preprocessing | None = None

    def load(self, device: str) -> None:
        self.calls = 0

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        levels = block.column("brightness").to_pylist()
        reasons = [None if level >= self.least else f"too dark ({level:.0f})" for level in levels]
        return pa.RecordBatch.from_arrays([pa.array(reasons, pa.string())], ["reason"])


@dataclass
class FailsOnce(Brightness):
    """Meets a fault of its device at its first call, in whatever process."""

    marker: str = ""

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().__call__(block, pixels)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


def run_over(workspace: Workspace) -> Run:
    return Run(workspace, PriceBook.load(), "azure-e32ads-v5-spot", device="cpu")


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_caption_and_a_filter_are_two_more_stages(workspace: Workspace):
    stages = [Brightness(), KeepBright(20), paint_embed()]
    maker = PaintMaker(bad_seeds=(25,))
    with run_over(workspace) as run:
        result = run.fill("paint", PaintPlan(40, num_read=30), maker, stages)
        assert result == FillResult(planned=40, present=0, made=19, errors=1, rejected=20)
        assert run.rejected_by == {"keep bright"}
    # a rejection is final and a failure is tried again
    with run_over(workspace) as run:
        again = run.fill("paint", PaintPlan(40, num_read=30), PaintMaker(), stages)
        assert again == FillResult(planned=40, present=39, made=1)
        assert run.rejected_by == {"keep bright"}
    rows = workspace.scan(["seed", "brightness", "caption", "embedding_paint_encoder"]).read_all().to_pylist()
    assert sorted(row["seed"] for row in rows) == list(range(20, 40))
    assert all(row["brightness"] == row["seed"] and row["caption"] == f"colour of {row['seed']}" for row in rows)
    assert all(row["embedding_paint_encoder"] for row in rows)
    errors = workspace.errors().to_pylist()
    assert {(error["seed"], error["stage"], error["reason"]) for error in errors} == {
        (seed, "keep bright", f"too dark ({seed})") for seed in range(20)
    }
    ledger = workspace.ledger().to_pylist()
    assert {entry["stage"] for entry in ledger} == {"make", "brightness", "keep bright", "embed"}
    assert sum(entry["rows"] for entry in ledger if entry["stage"] == "keep bright") == 20


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_stage_runs_over_what_is_committed_and_makes_nothing(workspace: Workspace):
    with run_over(workspace) as run:
        run.fill("paint", PaintPlan(30, num_read=10), PaintMaker(), [paint_embed()])
        assert run.apply(Brightness(), PaintPlan(60, 10)) == 30
        assert run.apply(Brightness(), PaintPlan(60, 10)) == 0
        # a fill brings the rows of earlier runs up to date
        assert run.fill("paint", PaintPlan(40, 10), PaintMaker(), [Brightness(), paint_embed("other")]) == FillResult(
            planned=40, present=30, made=10, updated=30
        )
    rows = workspace.scan(["seed", "brightness", "caption", "embedding_other"]).read_all().to_pylist()
    assert sorted(row["seed"] for row in rows) == list(range(40))
    assert all(row["brightness"] == row["seed"] and row["embedding_other"] for row in rows)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_device_that_is_lost_while_a_stage_runs_over_committed_images_loses_none(
    workspace: Workspace, tmp_path: Path
):
    with run_over(workspace) as run:
        run.fill("paint", PaintPlan(12), PaintMaker())
        assert run.apply(FailsOnce(marker=str(tmp_path / "failed")), PaintPlan(12)) == 12
    assert (tmp_path / "failed").exists()
    assert workspace.count("brightness IS NOT NULL") == 12


@dataclass
class FailsLate(Brightness):
    """Fails with every block that holds the last image."""

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        if 299 in block.column("seed").to_pylist():
            raise RuntimeError("the model is out of luck")
        return super().__call__(block, pixels)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_what_a_stage_has_finished_is_kept_when_it_fails_later(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.dataflow.apply.ROWS_PER_LEASE", 50)
    with run_over(workspace) as run:
        run.fill("paint", PaintPlan(300), PaintMaker(rows_per_call=50))
        reason = r"stage brightness stopped \(RuntimeError: the model is out of luck\); run it again"
        with pytest.raises(RunFailed, match=reason) as caught:
            run.apply(FailsLate(), PaintPlan(300))
        assert "\n" not in str(caught.value)
        assert 50 <= workspace.count("brightness IS NOT NULL") <= 250
        assert run.apply(Brightness(), PaintPlan(300)) >= 50
    assert workspace.count("brightness IS NOT NULL") == 300


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([paint_embed(), paint_embed()], "two stages add the column embedding_paint_encoder"),
        ([KeepBright(3)], "stage keep bright reads brightness, which no row has"),
    ],
)
def test_stages_that_do_not_fit_are_one_sentence(workspace: Workspace, stages: list, message: str):
    with run_over(workspace) as run, pytest.raises(ValueError, match=message):
        run.fill("paint", PaintPlan(8), PaintMaker(), stages)


def test_a_filter_is_not_for_committed_images(workspace: Workspace):
    with run_over(workspace) as run, pytest.raises(ValueError, match="committed images stay; give it to a fill"):
        run.apply(KeepBright(3), PaintPlan(8))


@pytest.mark.parametrize("views", ["generated", "read"])
def test_a_stage_gets_images_of_the_size_that_it_takes(views: str):
    size = Preprocessing((8, 6), "squash", "bicubic")
    seen: list[tuple[int, ...]] = []

    class Sizes(KeepBright):
        def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
            seen.append(tuple(pixels.shape))
            return pa.RecordBatch.from_arrays([pa.nulls(block.num_rows, pa.string())], ["reason"])

    images = [torch.zeros(3, side, side, dtype=torch.uint8) for side in (16, 32)]
    given = {None: images} if views == "generated" else {size: torch.zeros(2, 3, 8, 6, dtype=torch.uint8)}
    stage = Sizes(0, inputs=(), preprocessing=size)
    found = Stages([stage], "cpu").run_on(["0" * 32, "1" * 32], given)
    assert (seen, found.kept.tolist()) == ([(2, 3, 8, 6)], [0, 1])
