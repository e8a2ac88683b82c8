"""The GPU benchmark of mining runs, and checks itself, on a machine without one."""

import sys

from benchmarks.gpu import mining


def test_it_prints_its_floors_and_finds_no_difference(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["mining.py", "--device", "cpu", "--repeats", "1", "--rows", "3000", "--queries", "100"]
    )
    mining.main()
    shown = capsys.readouterr().out
    assert "floor by memory" in shown
    assert "search with the copy" in shown
    assert "largest difference to a float32 search" in shown
