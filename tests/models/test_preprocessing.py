import pickle
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.models.preprocessing import Preprocessing, resize_weights

SHAPES = [(32, 32), (64, 48), (31, 90), (8, 8), (1, 1), (400, 7)]


def _pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
def test_it_is_open_clips_resize(resize_mode: str, interpolation: str, shape: tuple[int, int]):
    pixels = _pixels(*shape)
    theirs = open_clip.image_transform(
        (32, 32), is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize_mode, interpolation=interpolation
    )(Image.fromarray(pixels))
    ours = Preprocessing((32, 32), resize_mode, interpolation).resize_array(pixels)
    assert ours.shape == theirs.shape == (3, 32, 32)
    difference = np.abs(ours - 255 * theirs.numpy())
    assert difference.max() <= 4.01  # PIL rounds each pass of its resize to whole levels
    assert difference.mean() <= 0.5


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["squash", "shortest", "longest"]), st.booleans())
def test_an_array_gives_what_its_tensor_gives(height: int, width: int, resize_mode: str, read_only: bool):
    preprocessing = Preprocessing((20, 28), resize_mode, "bicubic")
    pixels = _pixels(height, width)
    expected = preprocessing.resize(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
    pixels.flags.writeable = not read_only
    found = preprocessing.resize_array(pixels)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected.numpy())
    assert torch.equal(preprocessing.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1)), expected)


def test_an_image_of_the_right_size_stays_as_it_is():
    pixels = _pixels(20, 28)
    assert np.array_equal(Preprocessing((20, 28), "squash", "bicubic").resize_array(pixels), pixels.transpose(2, 0, 1))


def test_a_config_has_one_side_or_two():
    config = {"resize_mode": "shortest", "interpolation": "bicubic", "mean": (0.5,) * 3}
    assert Preprocessing.from_config({"size": 32, **config}) == Preprocessing((32, 32), "shortest", "bicubic")
    assert Preprocessing.from_config({"size": [32, 24], **config}).size == (32, 24)


def test_a_worker_resizes_without_the_library_of_the_models():
    preprocessing = Preprocessing((8, 8), "squash", "bilinear")
    code = (
        "import pickle, sys, numpy as np\n"
        f"found = pickle.loads({pickle.dumps(preprocessing)!r}).resize_array(np.zeros((20, 30, 3), np.uint8))\n"
        "print(found.shape, [name for name in ('open_clip', 'diffusers', 'transformers', 'ray') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "(3, 8, 8) []"


@pytest.mark.parametrize("shape", [(31, 90), (300, 301), (37, 400), (64, 33), (33, 64), (20, 20), (400, 7), (32, 1)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest"])
def test_two_products_are_the_resize(resize_mode: str, interpolation: str, shape: tuple[int, int]):
    preprocessing = Preprocessing((32, 28), resize_mode, interpolation)
    images = torch.stack([torch.from_numpy(_pixels(*shape)), torch.from_numpy(_pixels(*shape) // 2)]).permute(
        0, 3, 1, 2
    )
    found = preprocessing.resize_by_products(images)
    assert found.shape == (2, 3, 32, 28)
    difference = (found.int() - preprocessing.resize(images).int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() <= 0.15
    assert torch.equal(preprocessing.resize_by_products(images[1]), found[1])


def test_a_plain_area_keeps_its_level_in_two_products():
    for level in range(256):
        found = Preprocessing((9, 7), "shortest", "bicubic").resize_by_products(
            torch.full((3, 47, 31), level, dtype=torch.uint8)
        )
        assert (found == level).all()


@given(st.integers(1, 500), st.integers(1, 300), st.booleans())
def test_products_of_weights_and_levels_add_up_exactly_in_any_order(length: int, target: int, bilinear: bool):
    weights = resize_weights(length, target, target, bilinear)
    assert torch.equal(weights.half().float(), weights)
    levels = torch.from_numpy(np.random.default_rng(length).integers(0, 256, length, np.uint8)).double()
    exact = weights.double() @ levels
    assert torch.equal(exact.float().double(), exact)
    assert (
        weights.double().abs() @ torch.full((length,), 255.0, dtype=torch.double) < 2**10
    ).all()  # 24 bits above 2^-14
    order = torch.randperm(length)
    assert torch.equal((weights[:, order] @ levels.float()[order]).double(), exact)


@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
def test_on_a_gpu_float16_factors_have_float32_sums(resize_mode: str, monkeypatch: pytest.MonkeyPatch):
    """Fake tensors have the shapes and types of a GPU's and no values, so this needs none."""
    real, products = torch.mm, []

    def noted(*factors: torch.Tensor, **options: torch.dtype) -> torch.Tensor:
        products.append(({factor.dtype for factor in factors}, (found := real(*factors, **options)).dtype))
        return found

    monkeypatch.setattr(torch, "mm", noted)
    resize_weights.cache_clear()
    with FakeTensorMode():
        images = torch.empty(2, 3, 384, 512, dtype=torch.uint8, device="cuda")
        found = Preprocessing((224, 192), resize_mode, "bicubic").resize(images)
    resize_weights.cache_clear()  # its weights are fake
    assert (found.shape, found.dtype, found.device.type) == ((2, 3, 224, 192), torch.uint8, "cuda")
    assert products == ([] if resize_mode == "longest" else [({torch.float16}, torch.float32)])
