"""Copies are found in every form that they are planted in, and images that only look alike score lower."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from engine.evaluation.near_duplicates import SIDE, CopyFinder, crop_weights, resized, without_noise


def scenes(number: int, seed: int) -> np.ndarray:
    """Smooth pictures `[N, 32, 32, 3]`: a shape of its own on a background of its own."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        blocks = random.integers(30, 190, (7, 7, 3), np.uint8)
        found.append(np.asarray(Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(found)


KNOWN = scenes(40, 0)


def jpeg(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def crop(pixels: np.ndarray, x: float, y: float, share: float) -> np.ndarray:
    size = share * SIDE
    box = (x * (SIDE - size), y * (SIDE - size), x * (SIDE - size) + size, y * (SIDE - size) + size)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


CHANGES = {
    "as it is": lambda pixels: pixels,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "brighter": lambda pixels: np.clip(pixels * 1.3, 0, 255).astype(np.uint8),
    "far too bright": lambda pixels: np.clip(pixels * 1.9, 0, 255).astype(np.uint8),
    "darker": lambda pixels: (pixels * 0.7).astype(np.uint8),
    "compressed": jpeg,
    "cropped in the centre": lambda pixels: crop(pixels, 0.5, 0.5, 0.9),
    "cropped to a corner": lambda pixels: crop(pixels, 1, 0, 0.9),
    "cropped anywhere": lambda pixels: crop(pixels, 0.37, 0.83, 0.9),
    "cropped further": lambda pixels: crop(pixels, 0.2, 0.6, 0.82),
    "cropped, mirrored and compressed": lambda pixels: jpeg(np.ascontiguousarray(crop(pixels, 0.1, 0.7, 0.9)[:, ::-1])),
}


@pytest.fixture(scope="module")
def finder() -> CopyFinder:
    return CopyFinder(KNOWN)


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_copy_is_found_and_named(finder: CopyFinder, change: str):
    found = finder.find(np.stack([CHANGES[change](each) for each in KNOWN[:12]]))
    assert found.index.tolist() == list(range(12))
    assert found.score.min() > 0.95


def test_other_images_score_lower(finder: CopyFinder):
    assert finder.find(scenes(40, 1)).score.max() < 0.9


def test_an_image_is_not_compared_with_those_that_are_left_out(finder: CopyFinder):
    found = finder.find(KNOWN[:8], np.arange(8))
    assert not (found.index == np.arange(8)).any()
    assert found.score.max() < 0.9


def test_a_score_does_not_depend_on_the_other_queries(finder: CopyFinder):
    together, alone = finder.find(KNOWN[:5]), [finder.find(KNOWN[one : one + 1]).score[0] for one in range(5)]
    np.testing.assert_allclose(together.score, alone, atol=1e-4)


def test_known_images_part_by_part_give_the_same_matches(finder: CopyFinder, monkeypatch: pytest.MonkeyPatch):
    queries, left_out = scenes(12, 2), np.arange(12)
    whole = finder.find(np.concatenate([queries, KNOWN[:12]]), np.concatenate([left_out, left_out]))
    monkeypatch.setattr("engine.evaluation.near_duplicates.KNOWN_AT_ONCE", 7)
    parts = finder.find(np.concatenate([queries, KNOWN[:12]]), np.concatenate([left_out, left_out]))
    assert parts.index.tolist() == whole.index.tolist()
    np.testing.assert_allclose(parts.score, whole.score, atol=1e-6)
    np.testing.assert_allclose(parts.coarse, whole.coarse, atol=1e-6)


def test_a_blank_image_is_no_copy(finder: CopyFinder):
    blank = np.full((2, SIDE, SIDE, 3), [[[[255]]], [[[128]]]], np.uint8)
    assert finder.find(blank).score.max() < 0.5


def test_few_known_images_are_enough():
    assert CopyFinder(KNOWN[:1]).find(KNOWN[:1]).score[0] > 0.999
    assert len(CopyFinder(KNOWN).find(KNOWN[:0]).score) == 0


def test_noise_is_allowed_for_up_to_a_share_of_the_contrast():
    scores, variance = torch.tensor([0.9, 0.95, -0.5, 1.0]), torch.tensor([400.0, 40_000.0, 400.0, 400.0])
    first, second, negative, whole = without_noise(scores, variance).tolist()
    assert first == pytest.approx((0.9**2 + 0.1) ** 0.5)
    assert second == pytest.approx((0.95**2 + 50 / 40_000) ** 0.5)
    assert (negative, whole) == (-0.5, 1.0)


def test_weights_average_what_they_cover():
    weights = crop_weights(4, 0.5, 3.0, 2)
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3, 0, 0], [0, 0, 2 / 3, 1 / 3]], atol=1e-6)


@pytest.mark.parametrize("shape", [(200, 300), (32, 32), (10, 20)])
def test_images_of_any_size_are_resized(shape: tuple[int, int]):
    pixels = np.full((*shape, 3), 77, np.uint8)
    assert resized(pixels).shape == (SIDE, SIDE, 3)
    assert (resized(pixels) == 77).all()


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (3, 16, 16, 3), (32, 32, 3)])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="known images have shape"):
        CopyFinder(np.zeros(shape, np.uint8))
