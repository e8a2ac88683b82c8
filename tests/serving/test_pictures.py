"""Thumbnails of photographs are those of the whole picture, without decoding all of it."""

import io

import numpy as np
import pytest
from PIL import Image

from engine.images import decode_image, encode_png
from engine.serving.pictures import thumbnail

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)).resize((900, 600))
TURNED = 6
"""EXIF orientation of a camera that was held upright."""


def encoded(kind: str, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    WIDE.save(buffer, kind, exif=exif.tobytes(), quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [1, TURNED])
@pytest.mark.parametrize("width", [40, 100, 320])
def test_the_thumbnail_of_a_jpeg_is_that_of_its_pixels(width: int, orientation: int):
    data = encoded("JPEG", orientation)
    whole = Image.fromarray(decode_image(data))
    found = Image.open(io.BytesIO(thumbnail(data, width)))
    assert found.size == (width, round(whole.height * width / whole.width))
    expected = Image.open(io.BytesIO(thumbnail(encode_png(np.asarray(whole)), width)))
    assert np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(expected.convert("RGB"))).mean() < 8, (
        "another picture differs by 60 on average"
    )


def test_a_jpeg_is_decoded_at_a_part_of_its_size_but_not_below_what_is_asked():
    data = encoded("JPEG")
    assert decode_image(data).shape == (600, 900, 3)
    assert decode_image(data, least_side=100).shape == (150, 225, 3)
    assert decode_image(data, least_side=500).shape == (600, 900, 3)
    assert decode_image(encoded("PNG"), least_side=100).shape == (600, 900, 3)


def test_an_image_that_is_not_wider_keeps_its_size():
    assert Image.open(io.BytesIO(thumbnail(encoded("JPEG"), 2_000))).size == (900, 600)
