"""The help of every command ends with an example: all of them are parsed, and those that are quick are run as they stand."""

import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from engine.cli.main import main
from engine.cli.table import COMMANDS
from tests.export.helpers import every_kind, fill

RUN = ("check", "doctor", "status", "report", "show", "keys", "verify", "export", "audit", "models", "world")
"""Commands whose example is quick."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_ends_with_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    *_, title, shown = capsys.readouterr().out.rstrip().splitlines()
    assert title == "example:"
    program, command, *flags = shlex.split(shown)
    assert (program, command) == ("imagefoundry", name)
    module = import_module(COMMANDS[name].module)
    tyro.cli(getattr(module, COMMANDS[name].config), args=flags)


def test_bad_flags_are_answered_without_the_example(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["status"])
    assert "example:" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    filled = fill(folder / "workspace" / "first", every_kind())
    for number, row in enumerate(filled.rows.values()):
        photo = folder / "path" / "to" / "photos" / ("a", "b")[number % 2] / f"{number}.{row['image_format'] or 'png'}"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(row["image"])
    return folder


@pytest.mark.parametrize("name", RUN)
def test_a_quick_example_works(name: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    assert main([name, *shlex.split(COMMANDS[name].example)]) == 0
