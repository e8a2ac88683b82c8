"""References of tokens: what a worker keeps of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.dataflow.inversion import _Fitter
from engine.images import decode_image
from engine.models.references import fit
from engine.store import Workspace
from tests.store.helpers import add, recipe_ids, sound_rows


@pytest.mark.parametrize("shrink_to", [0, 2])
def test_references_are_kept_at_the_generators_size(tmp_path: Path, shrink_to: int):
    workspace = Workspace.open(tmp_path / "workspace")
    workspace.ensure_encoder("a", 4)
    rows = sound_rows(range(3))
    add(workspace, rows)
    ids = recipe_ids(range(3))
    encoded = dict(zip(ids, rows["image"].to_pylist(), strict=True))
    spec: Any = SimpleNamespace(height=4, width=6)
    config: Any = None
    fitter = _Fitter(workspace.uri, spec, config, "cpu")
    fitter._generator = SimpleNamespace(spec=spec)
    job: Any = SimpleNamespace(reference_ids=(ids[2], ids[0]), shrink_to=shrink_to)
    found, num_bytes = fitter._references(workspace, job)
    assert num_bytes == len(encoded[ids[2]]) + len(encoded[ids[0]])
    for pixels, name in zip(found, (ids[2], ids[0]), strict=True):
        image = decode_image(encoded[name])
        expected = fit(np.asarray(fit(image, shrink_to, shrink_to)) if shrink_to else image, 4, 6)
        assert np.array_equal(pixels, np.asarray(expected))
