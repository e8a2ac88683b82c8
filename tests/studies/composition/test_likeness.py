"""How alike generated images and their references are, pair by pair."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.images import decode_image
from engine.store import Workspace
from engine.studies.composition import study
from tests.store.helpers import add, recipe_ids, sound_rows


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_each_image_is_compared_with_its_own_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(study, "PAIRS_AT_ONCE", at_once)
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    rows = sound_rows(range(5))
    add(workspace, rows)
    ids = recipe_ids(range(5))
    pixels = {one: decode_image(data).ravel() for one, data in zip(ids, rows["image"].to_pylist(), strict=True)}
    images: Any = SimpleNamespace(ids=[ids[0], ids[1], ids[2], ids[3]], reference_ids=[ids[4], ids[0], "", ids[3]])
    found = study._likeness(workspace, images)
    assert found[0] == pytest.approx(np.corrcoef(pixels[ids[0]], pixels[ids[4]])[0, 1], abs=1e-6)
    assert found[1] == pytest.approx(np.corrcoef(pixels[ids[1]], pixels[ids[0]])[0, 1], abs=1e-6)
    assert np.isnan(found[2]), "it has no reference"
    assert found[3] == pytest.approx(1.0)
