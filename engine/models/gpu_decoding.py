"""JPEG bytes to pixels on a GPU, by nvJPEG.

A processor core decodes some hundred photographs per second, an H100 13,000. The two decoders smooth colour differently: on noisy
pictures single levels differ by up to 24, so embeddings of the two kinds of pixels have names of their own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.images import decode_image, plain_jpeg_size
from engine.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

Decode = Literal["cpu", "gpu"]
"""Where images are decoded for an encoder."""
SUFFIX = "+nvjpeg"
"""End of the name of embeddings whose images were decoded on a GPU."""
DECODED_BYTES = 512 << 20
"""Bytes of pixels that one call holds at once: 256 photographs of 12 megapixels would take 9 GB, and several calls share a GPU."""


def decode_on_gpu(data: Sequence[bytes], size: Preprocessing, device: str) -> "torch.Tensor":
    """uint8 `[N, 3, h, w]` of encoded images, decoded and resized on `device`, `DECODED_BYTES` at a time.

    Upright JPEGs in colour or grey are decoded there; all other images, and those that nvJPEG refuses, by `decode_image`.

    Raises:
        ValueError: bytes are no image, as `decode_image` does.
    """
    import torch

    found = torch.empty(len(data), 3, *size.size, dtype=torch.uint8, device=device)
    sides = [plain_jpeg_size(one) for one in data]
    weights = {number: 3 * side[0] * side[1] for number, side in enumerate(sides) if side}
    for part in _parts(weights):
        found[part] = size.resize_all(_decode_jpegs([data[number] for number in part], device))
    for number, one in enumerate(data):
        if number not in weights:
            found[number] = size.resize(_decoded(one, device))
    return found


def _parts(weights: dict[int, int]) -> list[list[int]]:
    """The keys in parts of `DECODED_BYTES` at most, or of one that is larger."""
    parts: list[list[int]] = []
    room = 0
    for number, weight in weights.items():
        if weight > room:
            parts.append([])
            room = DECODED_BYTES
        parts[-1].append(number)
        room -= weight
    return parts


def _decoded(data: bytes, device: str) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.moveaxis(decode_image(data), 2, 0).copy()).to(device)


def _decode_jpegs(data: Sequence[bytes], device: str) -> "list[torch.Tensor]":
    """All at once; one by one if there is one among them that nvJPEG refuses."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.from_numpy(np.frombuffer(bytearray(one), np.uint8)) for one in data]
    try:
        decoded: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
        return decoded
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        if len(data) > 1:
            return [_decode_jpegs([one], device)[0] for one in data]
        return [_decoded(data[0], device)]
