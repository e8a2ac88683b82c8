"""Sizes for the tiny twins of `engine.testing.generators`, so that a test of a generator takes seconds on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from engine.models import GeneratorSpec

IMAGE_SIZES = {"Flux2KleinPipeline": 64, "OmniGenPipeline": 32, "QwenImageEditPlusPipeline": 32}
"""Pipeline class → pixels per side of a twin's images, where a twin cannot generate 16 x 16 pixels."""


def image_size(spec: GeneratorSpec) -> int:
    """Pixels per side of a twin's images. Use it as height and width of the recipes in a test."""
    return IMAGE_SIZES.get(spec.pipeline, 16)


@contextmanager
def small_references() -> Iterator[None]:
    """Makes Qwen-Image-Edit scale references to 32 x 32 pixels within the `with` block.

    diffusers scales them to a megapixel whatever the image size, which takes a twin minutes. Other generators are not changed.
    """
    module = "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus"
    with patch(f"{module}.VAE_IMAGE_SIZE", 32 * 32), patch(f"{module}.CONDITION_IMAGE_SIZE", 32 * 32):
        yield
