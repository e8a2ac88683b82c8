"""Files that contributors and the repository's host read: they parse, and what they name exists."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from engine import __version__
from engine.recipe import SCHEMA_VERSION

ROOT = Path(__file__).parents[1]


def test_the_pre_commit_configuration_is_valid_and_runs_what_make_check_runs():
    path = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hooks = [hook for repo in yaml.safe_load(path.read_text())["repos"] for hook in repo["hooks"]]
    entries = " ".join(hook["entry"] for hook in hooks)
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    for tool in re.findall(r"\$\(RUN\)/([\w-]+(?: format| check)?)", check):
        assert f".venv/bin/{tool}" in entries, tool


def test_the_changelog_has_this_version_and_its_schema():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.findall(r"^## (\S+)", text, re.MULTILINE)[0]
    assert newest == __version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"Tables: schema {SCHEMA_VERSION}." in text.partition(f"## {newest}")[2].partition("\n## ")[0]


def test_the_issue_templates_have_what_the_host_asks_for():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        content = yaml.safe_load(path.read_text("utf-8"))
        if path.name == "config.yml":
            assert set(content) == {"blank_issues_enabled", "contact_links"}
            continue
        assert {"name", "description", "body"} <= set(content)
        ids = [one["id"] for one in content["body"]]
        assert len(ids) == len(set(ids))
        assert all(one["type"] == "textarea" and one["attributes"]["label"] for one in content["body"])
