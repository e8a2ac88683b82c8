"""Heads: their embeddings and names, alone and as rows of a workspace; an invalid head is refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.retriever.fit import Trained
from engine.retriever.head import Head, HeadSpec
from engine.retriever.heads import find_trained, keep_trained, load_kept_head
from engine.store import Workspace


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
def test_a_head_in_a_workspace_gives_the_same_embeddings_under_the_same_name(tmp_path: Path, changes: dict):
    head = make(label="realrag", training={"epochs": 3}, epoch=2, **changes)
    workspace = Workspace.open(tmp_path / "workspace")
    keep_trained(workspace, {"0" * 32: Trained(head, [{"epoch": 1.0}], {1: make(label="realrag", epoch=1)})}, "run")
    for again in (load_kept_head(workspace, head.name), find_trained(workspace, ["0" * 32])["0" * 32].head):
        assert (again.name, again.spec) == (head.name, head.spec)
        assert np.array_equal(again.embed(rows()), head.embed(rows()))
    np.testing.assert_allclose(np.linalg.norm(head.embed(rows()), axis=1), 1, rtol=1e-5)


def test_a_workspace_without_heads_says_how_to_train_one(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no trained head; train one with `imagefoundry train-retriever`"):
        load_kept_head(Workspace.open(tmp_path / "workspace"), "realrag")


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


def test_a_mix_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="mix 2 is no share"):
        make(mix=2)
