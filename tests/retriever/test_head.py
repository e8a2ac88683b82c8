"""The head's folder: what is written is read back, and what does not fit is refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.retriever.head import Head, HeadSpec, load_head


def rows(num: int = 5, dimension: int = 8) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(num, dimension)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def make(**changes) -> Head:
    torch.manual_seed(0)
    head = Head(HeadSpec(**{"encoder": "clip@1", "dimension": 8, "hidden": 16, **changes}))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


@pytest.mark.parametrize("changes", [{}, {"residual": False}, {"mix": 0.4}, {"hidden": 0}])
def test_a_saved_head_gives_the_same_embeddings_under_the_same_name(tmp_path: Path, changes: dict):
    head = make(label="realrag", training={"epochs": 3}, epoch=2, **changes)
    head.save(tmp_path / "head")
    again = load_head(tmp_path / "head")
    assert (again.name, again.spec) == (head.name, head.spec)
    assert np.array_equal(again.embed(rows()), head.embed(rows()))
    np.testing.assert_allclose(np.linalg.norm(head.embed(rows()), axis=1), 1, rtol=1e-5)


def test_mixing_goes_from_the_heads_output_to_the_frozen_embedding():
    frozen = rows()
    trained = make().embed(frozen)
    assert np.allclose(make(mix=1.0).embed(frozen), frozen, atol=1e-6)
    nearness = [(make(mix=mix).embed(frozen) * frozen).sum(axis=1).mean() for mix in (0, 0.5, 0.9)]
    assert nearness == sorted(nearness)
    assert not np.allclose(trained, frozen, atol=0.1)


def test_a_fresh_residual_head_is_plain_clip_and_a_head_of_other_weights_has_another_name():
    fresh = Head(HeadSpec(encoder="clip@1", dimension=8, hidden=16))
    assert np.allclose(fresh.embed(rows()), rows(), atol=1e-6)
    assert len({fresh.name, make().name, make(mix=0.5).name, make(label="normal").name}) == 4


def test_embeddings_of_another_encoder_are_refused_by_name():
    with pytest.raises(ValueError, match=r"trained on embeddings of clip@1, and these are of clip@2"):
        make().check_encoder("clip@2")
    with pytest.raises(ValueError, match=r"shape \(5, 4\).*takes 8 numbers an image"):
        make().embed(rows(dimension=4))


def test_what_is_no_head_is_refused_in_one_sentence(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no folder"):
        load_head(tmp_path / "nothing")
    (tmp_path / "pickled").mkdir()
    torch.save({}, tmp_path / "pickled" / "head.pt")
    with pytest.raises(ValueError, match="holds pickled weights"):
        load_head(tmp_path / "pickled")
    make().save(tmp_path / "misfit")
    facts = json.loads((tmp_path / "misfit" / "head.json").read_text())
    for spoiled in (facts | {"hidden": 4}, facts | {"colour": "red"}, {"encoder": "clip@1"}):
        (tmp_path / "misfit" / "head.json").write_text(json.dumps(spoiled))
        with pytest.raises(ValueError, match=r"cannot be read \(.*\); give a folder") as caught:
            load_head(tmp_path / "misfit")
        assert "\n" not in str(caught.value)
    (tmp_path / "misfit" / "head.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        load_head(tmp_path / "misfit")
    with pytest.raises(ValueError, match="mix 2 is no share"):
        make(mix=2)
