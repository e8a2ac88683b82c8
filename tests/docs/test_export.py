"""The commands and the code of docs/export.md, run on a small workspace."""

import re
import shlex
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.export.credentials import make_test_credential
from engine.images import decode_image
from tests.docs.python_blocks import DOCS, python_blocks, run_block
from tests.export.helpers import every_kind, fill

PAGE = "export.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `workspace/demo`, a key and its chain, as the page has them."""
    fill(tmp_path / "workspace" / "demo", every_kind())
    key, chain = make_test_credential()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "chain.pem").write_bytes(chain)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_do_what_it_says(here: Path):
    pytest.importorskip("c2pa")
    blocks = re.findall(r"^```bash\n(.*?)^```", (DOCS / PAGE).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("imagefoundry ")]
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert (here / "export" / "demo" / "data" / "train-00000-of-00001.parquet").is_file()
    assert "C2PA manifest, signed." in (here / "export" / "signed" / "README.md").read_text("utf-8")


def test_the_python_of_the_page_exports_a_folder(here: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (code,) = python_blocks(PAGE)
    run_block(monkeypatch, "take_away", code)
    assert "{'train': 91}" in capsys.readouterr().out
    images = list((here / "export" / "demo" / "train").glob("*/*"))
    assert len(images) == 91
    assert all(decode_image(path.read_bytes()).shape[2] == 3 for path in images)
