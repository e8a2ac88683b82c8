"""`make gpu-check` on tiny models: every section runs on any machine, and its floors are floors."""

from pathlib import Path

import pytest

from benchmarks.gpu import check
from benchmarks.gpu.rows import Machine, Row


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_every_section_runs_on_tiny_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert check.main(["--tiny", "--report", str(tmp_path / "table.md")]) == 0, capsys.readouterr()
    table = (tmp_path / "table.md").read_text()
    for what in (
        "encode_images, 512x384 on the host",
        "JPEG bytes to vectors, decoded on the cpu",
        "JPEG bytes to vectors, decoded on the gpu",
        "exact mining: largest difference to all products",
        "head by Ray Train: last ÷ first loss",
        "fast against exact",
        "engine ÷ bare loop",
        "miniature job, fast: exit code",
    ):
        assert f"| {what} |" in table
    assert "MISSED" not in table
    assert "FAILED" not in table


@pytest.mark.parametrize(
    ("row", "tiny", "name", "verdict"),
    [
        (Row("", 0.94, least=0.95, on_any_card=True), False, "NVIDIA A10G", "MISSED"),
        (Row("", 0.95, least=0.95, on_any_card=True), False, "NVIDIA A10G", "ok"),
        (Row("", 0.94, least=0.95, on_any_card=True), True, "cpu", ""),
        (Row("", 900, least=6_000), False, "NVIDIA A10G", ""),
        (Row("", 900, least=6_000), False, "NVIDIA H100 80GB HBM3", "MISSED"),
        (Row("", 1.1, most=0.9), False, "NVIDIA H100 80GB HBM3", "MISSED"),
        (Row("", 39.0, least=40, always=True), True, "cpu", "MISSED"),
        (Row("", float("nan"), least=0.9, always=True), True, "cpu", "MISSED"),
        (Row("", 5.0), False, "NVIDIA H100 80GB HBM3", ""),
    ],
)
def test_a_floor_is_judged_where_it_holds(row: Row, tiny: bool, name: str, verdict: str):
    assert row.verdict(Machine(Path(), tiny, "cpu", name)) == verdict


def test_a_section_that_fails_is_a_line_and_a_failing_exit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(machine: Machine):
        yield Row("before", 1.0)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(check, "SECTIONS", {"encode": fail})
    monkeypatch.setattr(check, "connected_cluster", __import__("contextlib").nullcontext)
    assert check.main(["--tiny"]) == 1
    assert "| encode | RuntimeError: out of luck | | | FAILED |" in capsys.readouterr().out
