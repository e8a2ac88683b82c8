"""Lines of runs: plain for people, JSON for machines that collect them."""

import io
import json

import pytest

from engine import log
from engine.progress import Progress


def test_progress_as_json_has_the_run_and_the_numbers(monkeypatch):
    monkeypatch.setenv(log.VARIABLE, "json")
    stream = io.StringIO()
    progress = Progress("pets", 40, stream, run_id="run-1")
    progress.show(force=True)
    progress.add(8, 2, 0.5)
    progress.close()
    first, last = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["done"], first["seconds_left"]) == (0, None)
    assert {name: last[name] for name in ("run_id", "name", "done", "total", "errors", "usd", "unit")} == {
        "run_id": "run-1",
        "name": "pets",
        "done": 10,
        "total": 40,
        "errors": 2,
        "usd": 0.5,
        "unit": "rows",
    }
    assert last["per_second"] > 0
    assert last["seconds_left"] == pytest.approx(30 / last["per_second"])
    assert first["time"] <= last["time"]


def test_other_lines_are_messages(monkeypatch, capsys):
    log.say("a worker died", run_id="run-1")
    assert capsys.readouterr().err == "a worker died\n"
    monkeypatch.setenv(log.VARIABLE, "json")
    log.say("a worker died", run_id="run-1")
    found = json.loads(capsys.readouterr().err)
    assert (found["run_id"], found["message"]) == ("run-1", "a worker died")


def test_another_value_is_refused(monkeypatch):
    monkeypatch.setenv(log.VARIABLE, "xml")
    with pytest.raises(ValueError, match="set it to json or plain"):
        Progress("pets", 40, io.StringIO())
