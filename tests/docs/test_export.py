"""The commands and the code of docs/export.md, run on a small workspace."""

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
import tyro

from engine.cli.main import main
from engine.export.credentials import make_test_credential
from engine.images import decode_image
from engine.studies.safety import SafetyConfig
from tests.docs.python_blocks import DOCS, python_blocks, run_block
from tests.export.helpers import every_kind, fill

PAGE = "export.md"
SCORES = "safety_nsfw_image_detection_1a2b3c4d_nsfw"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `workspace/demo`, a key and its chain, as the page has them."""
    filled = fill(tmp_path / "workspace" / "demo", every_kind())
    filled.workspace.ensure_columns(pa.schema([pa.field(SCORES, pa.float32())]))
    filled.workspace.fill_columns(pa.table({"id": list(filled.rows)[:9], SCORES: pa.array([0.1] * 9, pa.float32())}))
    key, chain = make_test_credential()
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "chain.pem").write_bytes(chain)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_do_what_it_says(here: Path):
    pytest.importorskip("c2pa")
    blocks = re.findall(r"^```bash\n(.*?)^```", (DOCS / PAGE).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("imagefoundry ")]
    assert len(commands) == 5
    for command in commands:
        name, *flags = shlex.split(command)[1:]
        if name == "check-safety":  # tests/studies run it on a checker that needs no download
            assert tyro.cli(SafetyConfig, args=flags).flag == ("nsfw",)
        else:
            assert main([name, *flags]) == 0
    assert "checked 9 of 9 images and flags 0" in (here / "export" / "safe" / "README.md").read_text("utf-8")
    assert (here / "export" / "demo" / "data" / "train-00000-of-00001.parquet").is_file()
    assert "C2PA manifest, signed." in (here / "export" / "signed" / "README.md").read_text("utf-8")


def test_the_python_of_the_page_exports_a_folder(here: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (code,) = python_blocks(PAGE)
    run_block(monkeypatch, "take_away", code)
    assert "{'train': 91}" in capsys.readouterr().out
    images = list((here / "export" / "demo" / "train").glob("*/*"))
    assert len(images) == 91
    assert all(decode_image(path.read_bytes()).shape[2] == 3 for path in images)
