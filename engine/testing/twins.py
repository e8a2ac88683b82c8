"""What tests of the tiny twins share: sizes, and a way to keep one library's references small."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

SIDE = {"flux2-klein": 64, "omnigen": 32, "qwen-image-edit": 32}
"""Pixels a side of what a twin draws; 16 for the others."""


@contextmanager
def small_references() -> Iterator[None]:
    """Qwen-Image-Edit scales every reference to a megapixel, minutes of work for a twin; here to 32 x 32 pixels."""
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus"
    with patch(f"{module}.VAE_IMAGE_SIZE", 32 * 32), patch(f"{module}.CONDITION_IMAGE_SIZE", 32 * 32):
        yield
