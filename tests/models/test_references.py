"""Reference images are cut, kept in proportion, and drawn as the edges that ControlNets were trained on."""

from typing import Any

import numpy as np
import pytest

from engine.models.generators import ReferenceModels
from engine.models.generators.stable_diffusion import StableDiffusion
from engine.models.references import canny, check_reference, fit
from engine.recipe import Recipe


def test_edges_lie_where_two_colours_meet_and_are_one_pixel_wide():
    image = np.full((40, 60, 3), 20, np.uint8)
    image[:, 30:] = 220
    edges = canny(image)
    assert set(np.flatnonzero(edges.any(0))) <= {29, 30}
    assert (edges.sum(1) == 1).all()
    assert (canny(image.transpose(1, 0, 2)) == edges.T).all()


def test_an_edge_of_one_colour_alone_is_seen():
    image = np.full((20, 20, 3), 100, np.uint8)
    image[:, 10:, 2] = 250
    assert canny(image).any()


def test_faint_edges_count_only_where_they_lead_to_a_strong_one():
    image = np.zeros((30, 40, 3), np.uint8)
    image[:15, 10:] = 30  # a step of 30 is 120 by Sobel, 180 at a corner: between the thresholds
    assert not canny(image).any()
    image[15:, 10:] = 200
    found = canny(image)[:14, 9:11]
    assert found.any(1).all()


def test_a_slanted_edge_is_one_line():
    rows, columns = np.mgrid[0:40, 0:40]
    image = np.where((rows > columns)[..., None], 230, 10).astype(np.uint8).repeat(3, 2)
    edges = canny(image)[5:-5, 5:-5]
    assert 30 <= edges.sum() <= 62
    distance = np.abs(rows - columns)[5:-5, 5:-5]
    assert distance[edges].max() <= 2


def test_a_flat_image_and_a_single_pixel_have_no_edges():
    assert not canny(np.full((9, 7, 3), 200, np.uint8)).any()
    assert canny(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1)


def test_fitting_keeps_proportions_and_the_middle():
    image = np.zeros((100, 300, 3), np.uint8)
    image[40:60, 140:160] = 255  # a square in the middle
    fitted = np.asarray(fit(image, 50, 50))[..., 0] > 127
    rows, columns = np.flatnonzero(fitted.any(1)), np.flatnonzero(fitted.any(0))
    assert fitted.shape == (50, 50)
    assert abs(len(rows) - 10) <= 1
    assert abs(len(columns) - 10) <= 1
    assert abs(rows.mean() - 24.5) < 1
    assert abs(columns.mean() - 24.5) < 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (7, 13)])
def test_any_shape_can_be_fitted(shape: tuple[int, int]):
    assert fit(np.full((*shape, 3), 77, np.uint8), 24, 16).size == (16, 24)


def test_an_image_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    assert (np.asarray(fit(image, 24, 16)) == image).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "a",
    ],
)
def test_what_is_no_image_is_refused(image: object):
    with pytest.raises(ValueError, match="a reference image"):
        check_reference(image)  # type: ignore[arg-type]


def test_a_controlnet_is_shown_edges_or_pixels():
    adapter = StableDiffusion("tiny", None, "cpu")
    recipe = Recipe(source="generative", dataset="things", class_index=0, class_name="cat", height=8, width=8)
    grey = np.full((8, 8, 3), 51, np.uint8)
    shown = {}
    for preprocessor in ("canny", "none"):
        arguments: dict[str, Any] = {}
        adapter.add_reference(arguments, "controlnet", [grey], recipe, ReferenceModels(preprocessor=preprocessor))
        shown[preprocessor] = arguments["image"]
    assert shown["canny"].shape == shown["none"].shape == (1, 3, 8, 8)
    assert not shown["canny"].any()
    assert np.allclose(shown["none"], 0.2)
