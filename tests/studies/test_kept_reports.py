from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine.reports import ContactSheet, Report
from engine.store import Workspace
from engine.studies.kept_reports import VERSION, keep_report, kept_reports
from tests.serving.pages_server import make_workspace


@dataclass(frozen=True)
class Config:
    shots: tuple[int, ...] = (1, 5)
    report: Path = Path("report")


def some_report(workspace: Workspace, finding: str = "Three is more than two.") -> Report:
    ids = [row["id"] for row in workspace.scan(["id"]).read_all().slice(0, 2).to_pylist()]
    return Report(
        title="A study",
        findings=[finding],
        tables={"points": [{"a": 1.5, "b": float("nan")}], "costs": [{"images": 3}], "empty": []},
        figures={"Figure": '<svg id="a"></svg>', "forged": "<script>alert(1)</script>"},
        sheets=[
            ContactSheet(
                title="s", group="g", source="generative", images=[b"x"], captions=["a", "b", "c"], ids=[*ids, "gone"]
            )
        ],
        notes=["A note."],
    )


def test_a_report_is_kept_once_and_read_with_its_pictures(tmp_path: Path):
    workspace = make_workspace(tmp_path / "workspace", per_class=1)
    first = keep_report(workspace, "genbench", Config(), some_report(workspace))
    assert keep_report(workspace, "genbench", Config(), some_report(workspace)) == first
    second = keep_report(workspace, "genbench", Config(), some_report(workspace, "Four is more than three."))
    newest, oldest = kept_reports(Workspace.open(workspace.uri))
    assert [newest.report_id, oldest.report_id] == [second, first]
    assert newest.config == {"shots": [1, 5], "report": "report"}
    report = newest.report
    assert report is not None
    assert report.findings == ["Four is more than three."]
    assert report.tables == {"points": [{"a": 1.5, "b": None}]}
    assert list(report.figures) == ["Figure"]
    (sheet,) = report.sheets
    assert [bool(image) for image in sheet.images] == [True, True, False]
    assert sheet.captions == ["a", "b", "c"]


def test_a_report_of_a_newer_release_is_listed_but_not_read(tmp_path: Path):
    workspace = Workspace.open(tmp_path / "workspace")
    keep_report(workspace, "genbench", Config(), Report(title="old"))
    (row,) = workspace.read("reports").to_pylist()
    newer = row | {"report_id": "another", "version": VERSION + 1, "content": b"unknown"}
    workspace.add_rows("reports", pa.Table.from_pylist([newer]))
    assert {one.report_id: one.report is None for one in kept_reports(workspace)} == {
        row["report_id"]: False,
        "another": True,
    }
