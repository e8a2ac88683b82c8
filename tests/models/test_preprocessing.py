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

from engine.models.preprocessing import Preprocessing

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
