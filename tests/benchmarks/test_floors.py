"""Figures are read from what the benchmarks print, and each benchmark that is named can be started."""

import importlib.util
import sys
from pathlib import Path

import pytest

from benchmarks import floors
from benchmarks.common import show
from benchmarks.floors import FLOORS, Figure, Floor, figures, main


def test_a_printed_goal_is_a_floor(capsys: pytest.CaptureFixture[str]):
    show("bare loop", [5.0, 6.0, 7.0], "images/s")
    show("engine ÷ bare loop", [0.9, 0.96, 1.0], "(goal: >= 0.95)")
    show("first row ÷ ray.init", [1.9, 1.8, 1.7], "(goal: <= 1.7)")
    show("served - bare - no-op", [4.0], "ms (goal: <= 5)")
    found = figures(Floor("x"), capsys.readouterr().out.splitlines())
    assert [(one.name, one.median, one.holds) for one in found] == [
        ("engine ÷ bare loop", 0.96, True),
        ("first row ÷ ray.init", 1.8, False),
        ("served - bare - no-op", 4.0, True),
    ]


def test_a_named_figure_has_the_floor_of_its_row(capsys: pytest.CaptureFixture[str]):
    show("20 shots: CLER", [0.1], "s")
    show("20 shots: probe (ours) ÷ CLER", [49.0])
    assert figures(Floor("x", r"probe \(ours\)", 50.0), capsys.readouterr().out.splitlines()) == [
        Figure("20 shots: probe (ours) ÷ CLER", 49.0, ">=", 50.0)
    ]


@pytest.mark.parametrize(("least", "code"), [(1.0, 0), (3.0, 1)])
def test_a_missed_floor_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, least: float, code: int
):
    """A program that stands for the interpreter prints what a benchmark would."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ratio   median   2.000  min  1.900  max  2.100  '\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(floors, "FLOORS", (Floor("some", "ratio", least),))
    assert main([]) == code
    assert ("**missed**" in capsys.readouterr().out) == bool(code)
    monkeypatch.setattr(floors, "FLOORS", (Floor("some", "another", least),))
    assert main([]) == 1, "a benchmark that prints no figure has failed"
    assert "**failed**" in capsys.readouterr().out


def test_the_benchmarks_exist():
    for floor in FLOORS:
        assert importlib.util.find_spec(f"benchmarks.{floor.command.split()[0]}"), floor.command
    assert main(["nothing"]) == 2
