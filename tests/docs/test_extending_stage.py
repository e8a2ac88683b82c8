"""The example of docs/extending/stage.md, run as a reader would add it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.costs import PriceBook
from engine.dataflow.run import FillResult
from engine.store import Workspace
from engine.testing.makers import PaintEncoder, PaintMaker, PaintPlan
from tests.docs.python_blocks import public_names, python_blocks, run_block


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    stage, fill, check = python_blocks("extending/stage.md")
    first = run_block(monkeypatch, "contrast", stage)
    return public_names(run_block(monkeypatch, "use", fill + "\n\n" + check, **public_names(first)))


def test_the_example_rejects_flat_images(names: dict[str, Any]):
    flat, noise = torch.full((3, 8, 8), 7, dtype=torch.uint8), torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    found = names["check"](names["Contrast"](), [flat, noise])
    assert found.kept.tolist() == [1]
    ((_, reason),) = found.reasons.values()
    assert reason == "contrast 0.0 is below 2"


def test_the_example_is_given_to_a_fill(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []

    def fill(self: Any, name: str, plan: Any, maker: Any, stages: Any = ()) -> FillResult:
        given.extend(stages)
        return FillResult(len(plan), 0)

    monkeypatch.setattr("engine.dataflow.run.Run.fill", fill)
    workspace = Workspace.open(tmp_path / "workspace")
    names["fill"](workspace, PriceBook.load(), PaintPlan(4), PaintMaker(), PaintEncoder())
    assert [stage.name for stage in given] == ["contrast", "embed"]
