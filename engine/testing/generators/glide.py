"""Tiny GLIDE, on OpenAI's package or, where it is not installed, on a stand-in with the same calls."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.models import GeneratorSpec
from engine.testing.generators.components import save_weights

if find_spec("glide_text2im") is None:  # the package is not on PyPI; where it is installed, the tests use it
    sys.path.append(str(Path(__file__).parents[1] / "stand_ins"))


GLIDE_OPTIONS: dict[str, Any] = {
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "text_ctx": 32,
    "xf_width": 16,
    "xf_layers": 1,
    "xf_heads": 2,
}
"""Differences of both models from the package's defaults."""


def save_glide(folder: Path, spec: GeneratorSpec) -> dict[str, str]:
    """GLIDE of 8 and 16 pixels, with random numbers for the weights that the package leaves at zero or unset."""
    import torch
    from glide_text2im.model_creation import (
        create_model_and_diffusion,
        model_and_diffusion_defaults,
        model_and_diffusion_defaults_upsampler,
    )

    defaults = model_and_diffusion_defaults(), model_and_diffusion_defaults_upsampler()
    sizes = ({"image_size": 8, "channel_mult": "1"}, {"image_size": 16, "channel_mult": "1,1"})
    for stage, default, size in zip(("base", "upsampler"), defaults, sizes, strict=True):
        options = GLIDE_OPTIONS | size | {"attention_resolutions": "4"}
        model, _ = create_model_and_diffusion(**default | options | {"use_fp16": False})
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
        save_weights(model.state_dict(), folder / "pipeline" / stage / "model.safetensors")
        (folder / "pipeline" / stage / "config.json").write_text(json.dumps(options))
    (folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "GlidePipeline"}))
    return {}
