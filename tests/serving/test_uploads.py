"""What a process keeps of uploaded images: a small file may hold 64 million pixels."""

import numpy as np
import pytest

from engine.images import content_hash, encode_png
from engine.models.preprocessing import Preprocessing
from engine.serving.errors import ApiError
from engine.serving.keys import OWN
from engine.serving.orders import NewObject
from engine.serving.replica import _read

SIZE = Preprocessing((16, 16), "shortest", "bicubic")
PICTURES = [np.random.default_rng(side).integers(0, 256, (side, 2 * side, 3), np.uint8) for side in (40, 300)]


def test_rows_keep_the_file_and_the_encoder_gets_pixels_of_its_size():
    new = NewObject(OWN, "request", "cup", tuple(encode_png(one) for one in PICTURES))
    rows, pixels = _read(new, "somebody", SIZE)
    assert [one.shape for one in pixels] == [(16, 16, 3)] * 2
    for row, small, picture, data in zip(rows, pixels, PICTURES, new.images, strict=True):
        assert row.stored is not None
        assert (row.stored.encoded, row.stored.content_hash) == (data, content_hash(picture))
        assert (row.stored.height, row.stored.width) == picture.shape[:2]
        assert np.array_equal(np.moveaxis(small, 2, 0), SIZE.resize_array(picture))
        assert row.recipe.corpus == "added/somebody"


def test_without_an_embedding_no_pixels_are_kept():
    rows, pixels = _read(NewObject(OWN, "request", "", (encode_png(PICTURES[0]),)), None, None)
    assert (len(rows), pixels) == (1, [])


def test_what_is_no_image_is_named_by_its_number():
    with pytest.raises(ApiError, match="image 2: "):
        _read(NewObject(OWN, "request", "cup", (encode_png(PICTURES[0]), b"text")), None, SIZE)
