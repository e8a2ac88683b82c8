"""The stage of FID's features: the column that it adds, on workers alone and once for each image."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.dataflow.inception import InceptionFeatures
from engine.dataflow.stages import Stages
from engine.evaluation import Inception
from engine.store.vectors import to_matrix

IDS = [f"{number:032x}" for number in range(2)]


@pytest.fixture
def images() -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, 256, (3, *size), np.uint8)) for size in ((20, 30), (16, 16))]


def test_the_column_holds_inceptions_features_of_images_at_their_own_size(
    inception_weights: Path, images: list[torch.Tensor]
):
    stage = InceptionFeatures.of(inception_weights)
    loaded = Stages([pickle.loads(pickle.dumps(stage))], "cpu")
    found = loaded.run_on(IDS, {None: images})
    assert loaded.preprocessings == [None]
    assert found.kept.tolist() == [0, 1]
    (column,) = found.columns
    network = Inception(inception_weights)
    for row, image in zip(to_matrix(found.columns[column]), images, strict=True):
        assert np.array_equal(row, network([image])[0].numpy())


def test_the_column_is_named_for_the_weights_and_is_no_embedding(inception_weights: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    copy, changed = tmp_path / "copy.safetensors", tmp_path / "changed.safetensors"
    copy.write_bytes(inception_weights.read_bytes())
    state = load_file(inception_weights)
    save_file(state | {"fc.bias": state["fc.bias"] + 1}, changed)
    first, same, other = (InceptionFeatures.of(path) for path in (inception_weights, copy, changed))
    assert first.column == same.column != other.column
    assert first.column.startswith("features_inception_")
    assert first.features == "inception/pt_inception.safetensors"
    assert first.columns.field(first.column).type.list_size == 2048


def test_features_that_are_not_finite_are_a_reason(inception_weights: Path, images: list[torch.Tensor], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    state = load_file(inception_weights)
    save_file(state | {"Conv2d_1a_3x3.bn.bias": torch.full((32,), float("nan"))}, tmp_path / "nan.safetensors")
    found = Stages([InceptionFeatures.of(tmp_path / "nan.safetensors")], "cpu").run_on(IDS, {None: images})
    assert {reason for _, reason in found.reasons.values()} == {"the Inception features are not finite"}
