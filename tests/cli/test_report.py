"""One page of a workspace."""

import json
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.reports import Report
from engine.store import Workspace
from engine.studies.kept_reports import keep_report
from tests.serving.pages_server import make_workspace
from tests.studies.test_kept_reports import Config


def test_the_page_has_what_was_measured_in_the_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    workspace = make_workspace(tmp_path / "workspace", per_class=2)
    keep_report(workspace, "genbench", Config(), Report(title="Earlier", findings=["Two is more than one."]))
    keep_report(workspace, "genbench", Config(), Report(title="GenBench", findings=["Three is more than two."]))
    keep_report(workspace, "realrag", Config(), Report(title="RealRAG", findings=["References help."]))
    before = {path: path.stat().st_mtime_ns for path in Path(workspace.uri).rglob("*") if path.is_file()}
    assert main(["report", "--workspace", workspace.uri, "--report", str(tmp_path / "page")]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path(workspace.uri).rglob("*") if path.is_file()} == before
    data = json.loads((tmp_path / "page" / "report.json").read_text())
    assert [part["title"] for part in data["parts"]] == ["GenBench", "RealRAG"]
    assert len(data["tables"]["kept_reports"]) == 3
    num = workspace.count()
    assert sum(row["images"] for row in data["tables"]["images_by_kind"]) == num
    counts = ("original", "generative")
    in_classes = [
        sum(n for name, n in row.items() if name.startswith(counts)) for row in data["tables"]["images_by_class"]
    ]
    assert sum(in_classes) == num
    assert data["tables"]["heads"][0]["method"] == "normal"
    assert data["tables"]["errors"][0]["reason"] == "out of paint"
    assert data["tables"]["runs"][0]["usd_billed"] == 0.008
    page = (tmp_path / "page" / "index.html").read_text()
    for text in ("Three is more than two.", "References help.", "out of paint", "1 failed", f"{num:,} images"):
        assert text in page
    assert "Two is more than one." in page  # in the list of results
    assert page.index("Three is more than two.") < page.index("Two is more than one.")
    assert "Report: " in capsys.readouterr().out


def test_an_empty_workspace_says_so_and_a_missing_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Workspace.open(tmp_path / "empty")
    assert main(["report", "--workspace", str(tmp_path / "empty"), "--report", str(tmp_path / "page")]) == 0
    assert "The workspace has no images yet." in (tmp_path / "page" / "index.html").read_text()
    assert main(["report", "--workspace", str(tmp_path / "none"), "--report", str(tmp_path / "page")]) == 2
    assert "there is no workspace" in capsys.readouterr().err
