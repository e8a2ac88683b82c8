"""JPEG bytes to pixels on a GPU, by nvJPEG.

A processor core decodes some hundred photographs per second, an H100 13,000. The two decoders smooth colour differently: on noisy
pictures single levels differ by up to 24, so embeddings of the two kinds of pixels have names of their own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.images import decode_image, is_plain_jpeg

if TYPE_CHECKING:
    import torch

Decode = Literal["cpu", "gpu"]
"""Where images are decoded for an encoder."""
SUFFIX = "+nvjpeg"
"""End of the name of embeddings whose images were decoded on a GPU."""


def decode_on_gpu(data: Sequence[bytes], device: str) -> "list[torch.Tensor]":
    """uint8 `[3, H, W]` of encoded images, on `device`.

    Upright JPEGs in colour or grey are decoded there; all other images, and those that nvJPEG refuses, by `decode_image`.

    Raises:
        ValueError: bytes are no image, as `decode_image` does.
    """
    import torch

    plain = [number for number, one in enumerate(data) if is_plain_jpeg(one)]
    found: dict[int, torch.Tensor] = {}
    if device.startswith("cuda") and plain:
        found.update(zip(plain, _decode_jpegs([data[number] for number in plain], device), strict=True))
    for number, one in enumerate(data):
        if number not in found:
            found[number] = torch.from_numpy(np.moveaxis(decode_image(one), 2, 0).copy()).to(device)
    return [found[number] for number in range(len(data))]


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
        return [torch.from_numpy(np.moveaxis(decode_image(data[0]), 2, 0).copy()).to(device)]
