"""The docs site builds without a warning, loads nothing from elsewhere, and its code blocks are what the programs take."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import tyro
import yaml

from engine import _MODULES
from engine.cli.table import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_and_every_public_name_is_in_the_site(site: Path):
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / (name.with_name("index.html") if name.name == "README.html" else name)).is_file()
    reference = (site / "reference" / "python.html").read_text("utf-8")
    missing = [name for name, module in _MODULES.items() if f'id="{module}.{name}"' not in reference]
    assert missing == []
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    assert [name for name in COMMANDS if f'id="{name}"' not in commands] == []
    assert "aws-r6i-8xlarge" in (site / "repository" / "engine" / "costs" / "price_book.toml.html").read_text("utf-8")


def test_the_site_loads_nothing_from_another_host(site: Path):
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//[^\"]*\"", text)
        loaded += re.findall(r"<link[^>]+href=\"(?:https?:)?//[^\"]*\"[^>]*>", text)
        assert [one for one in loaded if "canonical" not in one] == [], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_parse(page: Path):
    for language, code in BLOCK.findall(page.read_text("utf-8")):
        if language == "python":
            ast.parse(code)
        elif language == "toml":
            tomllib.loads(code)
        elif language == "json":
            json.loads(code)
        elif language == "yaml":
            list(yaml.safe_load_all(code))
        elif language == "bash":
            for command in commands_of(code):
                check_command(command)


def commands_of(code: str) -> list[list[str]]:
    """The lines of a shell block that run `imagefoundry` or a script of `jobs/`, as words without comments."""
    joined = re.sub(r"\\\n\s*", " ", code)
    found = []
    for line in joined.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quote that goes over lines
        starts = [
            place
            for place, word in enumerate(words)
            if word.endswith("imagefoundry") or re.fullmatch(r"jobs/\w+\.py", word)
        ]
        if starts and not any(word in ("|", "&&", ";") for word in words):
            found.append(words[starts[0] :])
    return found


def check_command(words: list[str]) -> None:
    """Parses the flags of a command of a page."""
    program, *rest = [word for word in words if word not in ("&", "…")]
    if program.endswith(".py"):
        (name,) = [name for name, command in COMMANDS.items() if f"jobs/{command.script}.py" == program]
    else:
        name, *rest = rest or ["--help"]
    if name.startswith("-") or "--help" in rest:
        return
    assert name in COMMANDS, words
    module = import_module(COMMANDS[name].module)
    try:
        tyro.cli(getattr(module, COMMANDS[name].config), args=rest, console_outputs=False)
    except SystemExit as stop:
        raise AssertionError(f"the flags are not those of the command: {shlex.join(words)}") from stop
