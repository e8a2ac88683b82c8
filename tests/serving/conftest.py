"""Fixtures of the serving tests: an empty workspace, and a clock that tests move."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.store import Workspace
from tests.serving.helpers import Clock
from tests.serving.local import Running, running


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: str, tiny_encoder: str) -> Iterator[Running]:
    """A whole server with the tiny models, without Ray."""
    with running(tmp_path_factory.mktemp("server"), tiny_pipeline, tiny_encoder) as found:
        yield found
