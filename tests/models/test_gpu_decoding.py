import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.images import decode_image, plain_jpeg_size
from engine.models import gpu_decoding
from engine.models.gpu_decoding import decode_on_gpu
from engine.models.preprocessing import Preprocessing

SIZE = Preprocessing((16, 16), "shortest", "bicubic")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8))


def encoded(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif.tobytes())


KINDS = {
    "colour": (encoded("JPEG"), True),
    "grey": (encoded("JPEG", PICTURE.convert("L")), True),
    "progressive": (encoded("JPEG", progressive=True), True),
    "turned by EXIF": (turned(), False),
    "four inks": (encoded("JPEG", PICTURE.convert("CMYK")), False),
    "too long": (encoded("JPEG", PICTURE.resize((808, 8))), False),
    "PNG": (encoded("PNG"), False),
    "no image": (b"\xff\xd8\xff and more", False),
    "empty": (b"", False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_jpegs_that_every_decoder_shows_alike_are_plain(kind: str):
    data, is_plain = KINDS[kind]
    assert plain_jpeg_size(data) == ((24, 40) if is_plain else None)


def test_images_of_all_kinds_and_sizes_come_in_their_order_as_a_processor_resizes_them(monkeypatch: pytest.MonkeyPatch):
    wide = encoded("JPEG", PICTURE.resize((60, 24)))
    data = [encoded("JPEG"), encoded("PNG"), turned(), wide, encoded("JPEG", PICTURE.convert("L")), wide]
    expected = np.stack([SIZE.resize_array(decode_image(one)) for one in data])
    assert np.array_equal(decode_on_gpu(data, SIZE, "cpu").numpy(), expected)
    calls: list[int] = []
    real = gpu_decoding._decode_jpegs
    monkeypatch.setattr(
        gpu_decoding, "_decode_jpegs", lambda some, device: calls.append(len(some)) or real(some, device)
    )
    monkeypatch.setattr(gpu_decoding, "DECODED_BYTES", 3 * 24 * 100)
    assert np.array_equal(decode_on_gpu(data, SIZE, "cpu").numpy(), expected)
    assert calls == [2, 2], "a part holds images of 40 and 60 columns, and no third"
    monkeypatch.setattr(gpu_decoding, "DECODED_BYTES", 1)
    assert np.array_equal(decode_on_gpu(data, SIZE, "cpu").numpy(), expected)
    assert calls[2:] == [1, 1, 1, 1], "an image that is larger than a part is decoded alone"


def test_a_jpeg_that_the_gpu_refuses_is_decoded_alone_and_the_others_are_not_lost(monkeypatch: pytest.MonkeyPatch):
    import torchvision.io

    refused, batches = encoded("JPEG", quality=20), []
    real = torchvision.io.decode_jpeg

    def decode(images: list[torch.Tensor], **named: Any) -> Any:
        batches.append(len(images))
        if any(bytes(image.numpy()) == refused for image in images):
            raise RuntimeError("nvjpegDecode failed: 5")
        return real(images, **named)

    monkeypatch.setattr(torchvision.io, "decode_jpeg", decode)
    data = [encoded("JPEG"), refused, encoded("JPEG", quality=50)]
    found = gpu_decoding._decode_jpegs(data, "cpu")
    assert batches == [3, 1, 1, 1]
    for pixels, one in zip(found, data, strict=True):
        assert np.array_equal(pixels.numpy(), np.moveaxis(decode_image(one), 2, 0))


def test_what_is_no_image_is_one_sentence():
    with pytest.raises(ValueError, match="the image cannot be decoded"):
        decode_on_gpu([encoded("JPEG"), b"\xff\xd8\xff and more"], SIZE, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_nearly_the_same_pixels():
    smooth = encoded("JPEG", PICTURE.resize((512, 384), Image.Resampling.BICUBIC), quality=95)
    whole = Preprocessing((384, 512), "squash", "bicubic")
    (found,) = decode_on_gpu([smooth], whole, "cuda")
    assert found.device.type == "cuda"
    assert np.abs(found.cpu().numpy().astype(int) - np.moveaxis(decode_image(smooth), 2, 0)).mean() < 4
