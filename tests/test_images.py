import numpy as np
import pytest

from engine import images
from engine.testing.data import class_image, encode


def test_png_bytes_hold_exactly_the_pixels():
    pixels = class_image(1, 2)
    assert (images.decode_image(images.encode_png(pixels)) == pixels).all()


def test_equal_pictures_have_equal_hashes_whatever_their_encoding():
    pixels = class_image(1, 2)
    decoded = images.decode_image(images.encode_png(pixels))
    assert images.content_hash(decoded) == images.content_hash(pixels)
    assert images.content_hash(pixels) != images.content_hash(class_image(1, 3))
    assert images.content_hash(pixels) != images.content_hash(pixels.reshape(16, 64, 3))


@pytest.mark.parametrize("data", [b"", b"not an image", encode(class_image(0, 0))[:40]])
def test_bytes_that_are_no_image_are_refused(data: bytes):
    with pytest.raises(ValueError, match="cannot be decoded"):
        images.decode_image(data)


def test_a_huge_canvas_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="32x32 pixels, more than 100"):
        images.decode_image(encode(np.zeros((32, 32, 3), np.uint8)))
