"""Encoded bytes to pixels and back, with a limit on what is opened."""

import io
from hashlib import blake2b

import numpy as np

MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused: a small file can claim a huge canvas."""


def decode_image(data: bytes) -> np.ndarray:
    """Pixels `[H, W, 3]` uint8 of WebP, JPEG or PNG bytes.

    Raises:
        ValueError: the bytes are no image, a broken one, or one of more than `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "JPEG", "PNG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"the image has {image.width}x{image.height} pixels, more than {MAX_PIXELS}; scale it down"
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be decoded ({error})") from None


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG bytes of `[H, W, 3]` uint8; the lightest compression, since it runs beside the device."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def content_hash(pixels: np.ndarray) -> str:
    """blake2b-128 of the size and the pixels `[H, W, 3]` uint8: equal pictures have equal hashes."""
    digest = blake2b(digest_size=16)
    digest.update(f"{pixels.shape[0]}x{pixels.shape[1]}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
