"""Stored images as browsers and clients want them: another format, or a thumbnail."""

import io
from typing import Literal, TypeAlias

from engine.images import decode_image, viewable

Format: TypeAlias = Literal["png", "webp", "jpeg"]
DEFAULT_QUALITY = 90


def view(data: bytes, kind: Format | None = None, width: int | None = None) -> tuple[bytes, str]:
    """An encoded image and its media type: as it is stored, or in another format, or as a narrower WebP.

    Formats that no browser shows become PNG. `width`: pixels; an image that is not wider keeps its size.
    """
    if width is not None:
        return thumbnail(data, width), "image/webp"
    shown = in_format(data, kind) if kind else viewable(data)
    return shown, f"image/{kind or sniff(shown)}"


def in_format(data: bytes, kind: Format, quality: int | None = None) -> bytes:
    """An encoded image in another format; PNG bytes stay as they are stored. `quality`: 0 to 100, of webp and jpeg."""
    if kind == "png" and sniff(data) == "png":
        return data
    from PIL import Image

    buffer = io.BytesIO()
    options = {} if kind == "png" else {"quality": DEFAULT_QUALITY if quality is None else quality}
    Image.fromarray(decode_image(data)).save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()


def thumbnail(data: bytes, width: int) -> bytes:
    """WebP of the image, at most `width` pixels wide."""
    from PIL import Image

    image = Image.fromarray(decode_image(data, least_side=2 * width))  # twice, so that what is left to shrink is smooth
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))))
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=DEFAULT_QUALITY, method=0)
    return buffer.getvalue()


def sniff(data: bytes) -> str:
    """`png`, `webp`, `gif` or `jpeg`, by the first bytes."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[:4] == b"RIFF" else "gif" if data.startswith(b"GIF8") else "jpeg"
