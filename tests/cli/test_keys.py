"""`imagefoundry keys`: add, list and revoke the API keys of a server."""

import re
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.serving.keys import KeyRing, list_keys
from engine.store import Workspace
from tests.serving.helpers import add_requests


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "workspace")


def test_a_key_is_printed_alone_and_once(place: str, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", "add", "--workspace", place, "--name", "ada", "--rate-per-minute", "5"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert re.fullmatch(r"if-[\w-]{43}", key)
    assert key not in said.err
    assert "This is the key ada (key-" in said.err
    workspace = Workspace.open(place)
    found = KeyRing(workspace).find(key)
    assert found is not None
    assert (found.name, found.rate_per_minute, found.budget_usd) == ("ada", 5, None)
    assert main(["keys", "list", "--workspace", place]) == 0
    assert key not in capsys.readouterr().out


def test_the_list_has_limits_states_and_dollars(place: str, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", "add", "--workspace", place, "--name", "a[b]", "--budget-usd", "2.5"]) == 0
    assert main(["keys", "add", "--workspace", place, "--name", "bob"]) == 0
    assert main(["keys", "revoke", "bob", "--workspace", place]) == 0
    workspace = Workspace.open(place)
    first, second = (row["key_id"] for row in list_keys(workspace))
    add_requests(workspace, [(first, 0.5), (first, 0.75), ("server", 3.0)])
    capsys.readouterr()
    assert main(["keys", "list", "--workspace", place]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in lines if line}
    assert rows[first][1] == "a[b]"
    assert rows[first][4:] == ["valid", "no", "limit", "$2.50", "$1.25"]
    assert rows[second][4] == "revoked"
    assert rows["server"][-1] == "$3.00", "the dollars of the server's own key are missing"


def test_a_workspace_without_keys_says_so(place: str, capsys: pytest.CaptureFixture[str]):
    Workspace.open(place)
    assert main(["keys", "list", "--workspace", place]) == 0
    assert capsys.readouterr().out == "No keys yet.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "--name", "ada"], "error: there is a key named 'ada'"),
        (["add", "--name", "bob", "--budget-usd", "-1"], "error: budget_usd is -1.0; give a positive number"),
        (["add", "--name", ""], "error: the name '' is invalid"),
        (["revoke", "bob"], "error: the key 'bob' does not exist"),
    ],
)
def test_bad_input_is_one_sentence(place: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", "add", "--workspace", place, "--name", "ada"]) == 0
    capsys.readouterr()
    assert main(["keys", *arguments, "--workspace", place]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


def test_a_list_of_no_workspace_makes_none(place: str, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", "list", "--workspace", place]) == 2
    assert main(["keys", "revoke", "ada", "--workspace", place]) == 2
    assert not Path(place).exists()
