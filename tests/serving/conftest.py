"""Fixtures of the serving tests: an empty workspace, and a clock that tests move."""

from pathlib import Path

import pytest

from engine.store import Workspace
from tests.serving.helpers import Clock


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def clock() -> Clock:
    return Clock()
