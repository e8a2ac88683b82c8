"""Encoded bytes to pixels and back, with limits on what is opened.

Pixels are those that an image viewer shows: upright by the EXIF orientation, transparent parts over white, 16 bits per channel
scaled to 8, the first frame of an animation. Colour profiles are not applied, so that equal bytes give equal pixels on every machine.
"""

import io
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from engine.names import unknown_name

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused: a small file can claim a huge canvas."""
MAX_SIDE = 32_768
"""Images with a longer side are refused, in pixels."""
MAX_ASPECT = 100
"""Maximum ratio of height to width; when resized for an encoder, a longer image would fill the memory."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM")
"""Pillow's names of the supported formats; file names are ignored."""

STORED_FORMATS = ("png", "webp", "jpeg")
"""Formats in which generated images can be stored."""
DEFAULT_QUALITY = 90
"""Quality of WebP and JPEG if none is given."""
LOSSLESS_QUALITY = 100
"""WebP of this quality is lossless."""

_BACKGROUND = (255, 255, 255, 255)
_ORIENTATION = 0x0112
_UNREAD = (
    (rb"\s*<(!doctype\s+html|html|head|body|!--)", "it is a web page, not an image; download it again"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!doctype\s+svg|<svg)", "SVG is not read; convert it to PNG"),
    (rb"\s*(<\?xml|<)", "it is markup, not an image; download it again"),
    (rb"\s*[\[{]", "it is JSON, not an image; download it again"),
    (rb"version https://git-lfs", "it is a Git LFS pointer, not an image; fetch the file with git lfs pull"),
    (rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1)", "HEIC is not read; convert it to JPEG or PNG"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL is not read; convert it to JPEG or PNG"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000 is not read; convert it to JPEG or PNG"),
    (rb"8BPS", "PSD is not read; convert it to JPEG or PNG"),
    (rb"%PDF", "it is a PDF, not an image; convert its pages to PNG"),
)
"""First bytes of unsupported formats → why they are not read."""


def decode_image(data: bytes, least_side: int | None = None) -> np.ndarray:
    """Pixels `[H, W, 3]` uint8 of an encoded image, as a viewer shows them.

    With `least_side`, a JPEG may come at a half, a quarter or an eighth of its size, its sides not shorter than that: a photograph
    of 12 megapixels is then decoded in a seventh of the time (benchmarks/results/2026-11-28-two-cores.md).

    Raises:
        ValueError: the bytes are no image of `FORMATS`, a broken one, or one beyond `MAX_PIXELS`, `MAX_SIDE` or `MAX_ASPECT`. Equal
            causes have equal messages.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height)
            if least_side:
                image.draft(None, (least_side, least_side))
            return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise ValueError(f"the image cannot be decoded ({_why_unknown(data)})") from None
    except _TooLarge as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise ValueError("the image cannot be decoded (the memory is too small for it)") from None
    except Exception as error:  # a decoder's failure on broken bytes may be of any kind
        raise ValueError(f"the image cannot be decoded ({_one_line(error)})") from None


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of what begins like an upright JPEG in colour or grey, of an allowed size: any JPEG decoder shows its pixels as they are.

    None for everything else.
    """
    from PIL import Image

    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            _check_size(image.width, image.height)
            is_plain = image.mode in ("RGB", "L") and image.getexif().get(_ORIENTATION, 1) == 1
            return (image.height, image.width) if is_plain else None
    except Exception:  # the decoder that reads it whole says what is wrong
        return None


class _TooLarge(ValueError):
    pass


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _TooLarge(f"the image has {width}x{height} pixels, more than {MAX_PIXELS}; scale it down")
    if max(width, height) > MAX_SIDE:
        raise _TooLarge(f"the image is {width}x{height}, longer than {MAX_SIDE} pixels; scale it down or cut it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise _TooLarge(
            f"the image is {width}x{height}, too long for its size (more than {MAX_ASPECT} to 1); cut it into pieces"
        )


def _upright(image: "Image.Image") -> "Image.Image":
    """The image rotated by its EXIF orientation, as by Pillow's `ImageOps.exif_transpose`, which fails on broken EXIF."""
    from PIL import Image

    turn = Image.Transpose
    turns = (
        *(turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM),
        *(turn.TRANSPOSE, turn.ROTATE_270, turn.TRANSVERSE, turn.ROTATE_90),
    )
    image.load()  # a TIFF is rotated while it is loaded
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # unreadable metadata has no effect: a viewer shows the image all the same
        orientation = 1
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        return image
    return image.transpose(turns[orientation - 2])


def _to_rgb(image: "Image.Image") -> np.ndarray:
    """`[H, W, 3]` uint8 of any mode."""
    from PIL import Image

    if image.mode == "RGB" and not image.has_transparency_data:
        return np.asarray(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = _to_8_bits(np.asarray(image), image.mode)
        hidden = image.info.get("transparency")  # a PNG of 16-bit grey may name one level that is transparent
        if isinstance(hidden, int) and image.mode != "F":
            levels = np.where(np.asarray(image) == hidden, np.uint8(255), levels)
        return np.repeat(levels[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", over.size, _BACKGROUND), over).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """uint8 of 16-bit levels, or of numbers from 0 to 1."""
    if mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError("its numbers are not from 0 to 1; save it with 8 bits per channel")
        return np.asarray(np.rint(values * 255), np.uint8)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("it has more than 16 bits per channel; save it with 8")
    return np.asarray(values.astype(np.uint32) >> 8, np.uint8)  # as Pillow reads 16 bits of colour


def _why_unknown(data: bytes) -> str:
    if not data:
        return "the file is empty"
    for pattern, reason in _UNREAD:
        if re.match(pattern, data[:512], re.IGNORECASE | re.DOTALL):
            return reason
    if not any(data[:4096]):
        return "the file holds zeros alone; copy it again"
    return f"it is broken, or none of {', '.join(name for name in FORMATS if name != 'DIB')}"


def _one_line(error: Exception) -> str:
    """An error's first line, without object addresses, so that equal errors have equal messages."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"<[\w.]+ object at 0x[0-9a-fA-F]+>", "the image", line)[:200]


def viewable(data: bytes) -> bytes:
    """The encoded image itself, or PNG bytes of it where no browser shows its format; as it is if it cannot be decoded."""
    if data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return data
    try:
        return encode_png(decode_image(data))
    except ValueError:
        return data


def encode_png(pixels: np.ndarray) -> bytes:
    """Lossless PNG bytes of `[H, W, 3]` uint8; the lightest compression, since it runs beside the device."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


@dataclass(frozen=True)
class ImageFormat:
    """Format in which generated images are stored. Raises ValueError for an unknown format or an invalid quality."""

    name: str = "png"
    """`png`, `webp` or `jpeg`."""
    quality: int | None = None
    """1 to 100, 90 if not given; WebP of 100 is lossless. None for PNG."""

    def __post_init__(self) -> None:
        if self.name not in STORED_FORMATS:
            raise ValueError(unknown_name("image format", self.name, STORED_FORMATS))
        if self.name == "png":
            if self.quality is not None:
                raise ValueError(
                    f"image quality {self.quality} has no effect on png, which is lossless; leave it out, or choose webp or jpeg"
                )
            return
        quality = DEFAULT_QUALITY if self.quality is None else self.quality
        if not 1 <= quality <= 100:
            raise ValueError(f"image quality {quality} is out of range; give 1 to 100")
        object.__setattr__(self, "quality", quality)

    def __str__(self) -> str:
        return self.name if self.quality is None else f"{self.name}-{self.quality}"

    @property
    def is_lossless(self) -> bool:
        """Whether the encoded bytes decode to the same pixels."""
        return self.name == "png" or (self.name == "webp" and self.quality == LOSSLESS_QUALITY)

    def encode(self, pixels: np.ndarray) -> bytes:
        """Encoded bytes of `[H, W, 3]` uint8."""
        if self.name == "png":
            return encode_png(pixels)
        from PIL import Image

        options: dict[str, object] = {"quality": self.quality}
        if self.name == "webp":
            # method 2 takes half the time of Pillow's default, for files of the same size; without loss, quality is effort
            options = {"lossless": True, "quality": 20, "method": 2} if self.is_lossless else options | {"method": 2}
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=self.name.upper(), **options)
        return buffer.getvalue()


PNG = ImageFormat()
"""The default: lossless."""


def content_hash(pixels: np.ndarray) -> str:
    """blake2b-128 of the size and the pixels `[H, W, 3]` uint8: equal pictures have equal hashes."""
    digest = blake2b(digest_size=16)
    digest.update(f"{pixels.shape[0]}x{pixels.shape[1]}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()
