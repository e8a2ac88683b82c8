import io
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from engine import images
from engine.catalog.layouts.layout import IMAGE_SUFFIXES
from engine.testing.data import class_image, encode


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PIXELS = class_image(3, 2)
PICTURE = Image.fromarray(PIXELS)


def test_png_bytes_hold_exactly_the_pixels():
    pixels = class_image(1, 2)
    assert (images.decode_image(images.encode_png(pixels)) == pixels).all()


LOSSLESS = ("png", "webp-100")


@pytest.mark.parametrize(
    ("image_format", "name", "kind"),
    [
        (images.ImageFormat(), "png", "PNG"),
        (images.ImageFormat("webp"), "webp-90", "WEBP"),
        (images.ImageFormat("webp", 100), "webp-100", "WEBP"),
        (images.ImageFormat("webp", 1), "webp-1", "WEBP"),
        (images.ImageFormat("jpeg"), "jpeg-90", "JPEG"),
        (images.ImageFormat("jpeg", 100), "jpeg-100", "JPEG"),
    ],
)
def test_a_stored_format_keeps_what_it_promises(image_format: images.ImageFormat, name: str, kind: str):
    data = image_format.encode(PIXELS)
    assert (str(image_format), Image.open(io.BytesIO(data)).format) == (name, kind)
    assert np.array_equal(images.decode_image(data), PIXELS) == image_format.is_lossless == (name in LOSSLESS)


def test_png_is_stored_as_before():
    assert images.PNG.encode(PIXELS) == images.encode_png(PIXELS)


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_a_lower_quality_is_smaller(name: str):
    sizes = [len(images.ImageFormat(name, quality).encode(PIXELS)) for quality in (10, 50, 90, 99)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("name", "quality", "sentence"),
    [
        ("gif", None, "unknown image format 'gif'; known: png, webp, jpeg"),
        ("jpg", 90, "unknown image format 'jpg'; did you mean jpeg"),
        ("webp", 0, "image quality 0 is out of range; give 1 to 100"),
        ("jpeg", 101, "image quality 101 is out of range; give 1 to 100"),
        ("png", 90, "image quality 90 has no effect on png, which is lossless; leave it out, or choose webp or jpeg"),
    ],
)
def test_a_stored_format_that_does_not_exist_is_one_sentence(name: str, quality: int | None, sentence: str):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        images.ImageFormat(name, quality)


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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page, not an image"),
        (b"<html><body>", "it is a web page"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG is not read"),
        (b'{"error": "not found"}', "it is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not read"),
        (bytes(900), "the file holds zeros alone"),
        (b"BM but no bitmap", "the image cannot be decoded"),
    ],
)
def test_the_reason_tells_what_the_bytes_are(data: bytes, reason: str):
    with pytest.raises(ValueError, match=reason) as caught:
        images.decode_image(data)
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_faults_have_equal_reasons():
    said = set()
    for _ in range(5):
        with pytest.raises(ValueError, match="cannot be decoded") as caught:
            images.decode_image(b"not an image" + bytes(random.randrange(9)))
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_huge_canvas_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="32x32 pixels, more than 100"):
        images.decode_image(encode(np.zeros((32, 32, 3), np.uint8)))


@pytest.mark.parametrize(("width", "height"), [(20_000_000, 1), (65_535, 1), (1, 65_535), (40_000, 1_000), (101, 1)])
def test_an_image_that_is_too_long_is_refused_before_it_is_decoded(width: int, height: int):
    data = saved(Image.new("1", (width, height)), "PNG")
    with pytest.raises(ValueError, match=rf"{width}x{height}.*(longer than|too long for its size)"):
        images.decode_image(data)


def test_the_longest_images_that_are_read():
    assert images.decode_image(saved(Image.new("L", (100, 1)), "PNG")).shape == (1, 100, 3)
    assert images.decode_image(saved(Image.new("1", (32_768, 328)), "PNG")).shape == (328, 32_768, 3)


FORMATS = {
    "jpg": ("JPEG", {}),
    "jpeg": ("JPEG", {"progressive": True}),
    "jpe": ("JPEG", {}),
    "jfif": ("JPEG", {}),
    "png": ("PNG", {}),
    "apng": ("PNG", {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size, "red")]}),
    "webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "dib": ("DIB", {}),
    "gif": ("GIF", {"save_all": True, "append_images": [Image.new("RGB", PICTURE.size, "red")]}),
    "tif": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff": ("TIFF", {}),
    "avif": ("AVIF", {}),
    "ppm": ("PPM", {}),
    "pgm": ("PPM", {}),
    "pbm": ("PPM", {}),
    "pnm": ("PPM", {}),
}


def test_every_suffix_that_is_read_has_a_format():
    assert set(FORMATS) == IMAGE_SUFFIXES
    assert {kind for kind, _ in FORMATS.values()} == set(images.FORMATS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_its_first_frame(suffix: str):
    kind, options = FORMATS[suffix]
    picture = {"pgm": PICTURE.convert("L"), "pbm": PICTURE.convert("1")}.get(suffix, PICTURE)
    decoded = images.decode_image(saved(picture, kind, **options))
    if kind in ("JPEG", "AVIF", "GIF"):
        assert np.abs(decoded.astype(int) - PIXELS).mean() < 8
    else:
        assert (decoded == np.asarray(picture.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_upright_by_its_exif_orientation(kind: str, orientation: int):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(pixels), kind, exif=exif.tobytes(), quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = images.decode_image(data)
    assert decoded.shape == ((40, 20, 3) if 5 <= orientation <= 8 else (20, 40, 3))
    assert (decoded == expected).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0nonsense", b"Exif\0\0" + bytes(40)]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_hides_no_image(exif: bytes):
    assert images.decode_image(saved(PICTURE, "JPEG", exif=exif)).shape == (32, 32, 3)


def test_transparent_parts_lie_over_white():
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, 16:] = 0
    alpha[:16, 16:] = 128
    picture = Image.fromarray(np.dstack([PIXELS, alpha]))
    for kind in ("PNG", "WEBP", "TIFF"):
        decoded = images.decode_image(
            saved(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        )
        assert (decoded[:, :16] == PIXELS[:, :16]).all()
        assert (decoded[16:, 16:] == 255).all()
        mixed = (PIXELS[:16, 16:].astype(float) + 255) / 2
        assert np.abs(decoded[:16, 16:] - mixed).max() <= 2


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "GIF", "LA"])
def test_transparency_of_every_kind_lies_over_white(mode: str):
    if mode in ("L", "RGB"):
        data = saved(Image.new(mode, (4, 4)), "PNG", transparency=0 if mode == "L" else (0, 0, 0))
    elif mode == "P":
        data = saved(Image.new("P", (4, 4)), "PNG", transparency=0)
    elif mode == "GIF":
        data = saved(Image.new("P", (4, 4)), "GIF", transparency=0)
    else:
        data = saved(Image.new("LA", (4, 4), (0, 0)), "PNG")
    assert (images.decode_image(data) == 255).all()


def test_sixteen_bits_are_scaled_as_a_viewer_does():
    levels = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    for kind in ("PNG", "TIFF"):
        decoded = images.decode_image(saved(Image.fromarray(levels), kind))
        assert (decoded == (levels >> 8)[..., None]).all()
    big = b"P5 8 8 65535\n" + levels.astype(">u2").tobytes()
    assert np.abs(images.decode_image(big).astype(int) - (levels >> 8)[..., None]).max() <= 1
    shares = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    assert images.decode_image(saved(shares, "TIFF")).max() == 255


@pytest.mark.parametrize("values", [np.full((4, 4), 1e5, np.float32), np.full((4, 4), np.nan, np.float32)])
def test_numbers_without_a_range_are_refused(values: np.ndarray):
    with pytest.raises(ValueError, match="not from 0 to 1"):
        images.decode_image(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")]
)
def test_other_modes_become_rgb(mode: str, kind: str):
    decoded = images.decode_image(saved(PICTURE.convert(mode), kind))
    expected = np.asarray(PICTURE.convert(mode).convert("RGB")).astype(int)
    assert np.abs(decoded - expected).mean() < 4


def test_plain_images_keep_the_pixels_of_pillows_rgb():
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 80}), ("WEBP", {"quality": 90})):
        data = saved(PICTURE, kind, **options)
        assert (images.decode_image(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


@pytest.mark.parametrize("kind", images.FORMATS)
def test_a_page_shows_every_format(kind: str):
    data = saved(PICTURE, kind)
    shown = images.viewable(data)
    assert (shown == data) == (kind in ("JPEG", "PNG", "WEBP", "GIF"))
    assert Image.open(io.BytesIO(shown)).format in ("JPEG", "PNG", "WEBP", "GIF")
    assert (images.decode_image(shown) == images.decode_image(data)).all()
    assert images.viewable(b"no image") == b"no image"


def is_one_line(error: ValueError) -> None:
    assert "\n" not in str(error)
    assert " at 0x" not in str(error)


WHOLE = [saved(PICTURE, kind) for kind in images.FORMATS]


@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.integers(0, 4000),
)
def test_spoiled_bytes_are_pixels_or_one_sentence(data: bytes, changes: list[tuple[int, int]], cut: int):
    spoiled = bytearray(data)
    for place, value in changes:
        spoiled[place % len(spoiled)] = value
    if cut < len(spoiled):
        del spoiled[cut:]
    try:
        decoded = images.decode_image(bytes(spoiled))
    except ValueError as error:
        is_one_line(error)
    else:
        assert decoded.dtype == np.uint8
        assert decoded.ndim == 3
        assert decoded.shape[2] == 3


@given(st.binary(max_size=300))
def test_any_bytes_are_pixels_or_one_sentence(data: bytes):
    try:
        images.decode_image(data)
    except ValueError as error:
        is_one_line(error)
