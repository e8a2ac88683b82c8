"""A study as `run_study` runs it: phases over one run, a report, and a check of its losses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.dataflow.run import Run
from engine.reports import Report
from engine.sources import Plan
from engine.store import Workspace
from engine.studies.base import Phase, Study, run_study
from engine.studies.config import Settings
from engine.studies.kept_reports import kept_reports
from engine.testing.makers import PaintMaker, PaintPlan
from tests.dataflow.test_stages import Brightness, KeepBright


@dataclass(frozen=True, kw_only=True)
class PaintConfig(Settings):
    report: Path


class PaintStudy(Study):
    """Twelve flat pictures, of which a stage rejects the darkest nine."""

    def phases(self) -> Iterator[Phase]:
        yield "paint", self._paint

    def _paint(self, run: Run) -> None:
        run.fill("paint", PaintPlan(12), PaintMaker(), [Brightness(), KeepBright(9)])

    def every_plan(self) -> list[Plan]:
        return [PaintPlan(12)]

    def build_report(self, workspace: Workspace) -> Report:
        return Report(tables={"counts": [{"images": workspace.count(), "errors": workspace.errors().num_rows}]})


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_study_does_not_end_as_failed_because_a_stage_rejects_images(
    tmp_path: Path, tiny_dataset: Path, tiny_encoder: str
):
    config = PaintConfig(
        datasets=(str(tiny_dataset),),
        encoder=tiny_encoder,
        workspace=str(tmp_path / "workspace"),
        report=tmp_path / "report",
        device="cpu",
    )
    for _ in range(2):  # the second run makes nothing and knows the rejections of the first
        report = run_study(PaintStudy(config))
        assert report.tables["counts"] == [{"images": 3, "errors": 9}]
    (kept,) = kept_reports(Workspace.open(config.workspace))  # equal results are kept once
    assert kept.study == "PaintStudy"
    assert kept.report is not None
    assert kept.report.tables == report.tables
