"""The pipeline of GLIDE (Nichol et al. 2021, arXiv 2112.10741) on OpenAI's package: a base model of 64 pixels and an upsampler to 256.

The package `glide_text2im` is not on PyPI, so it is not a requirement; it runs unchanged with current torch. Sampling is DDIM
without noise between the steps, so an image depends on its own seed alone. Weights are safetensors, which `convert` writes from
OpenAI's two files. Only loading a GLIDE imports this module.
"""

import json
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor

STAGES = ("base", "upsampler")
"""Folders of a checkpoint, each with `config.json` (differences from the package's defaults) and `model.safetensors`."""
UPSAMPLER_STEPS = "fast27"
"""Sampler steps of the upsampler, in the package's notation."""
UPSAMPLER_TEMPERATURE = 0.997
"""Scale of the upsampler's initial noise. Both as in notebooks/text2im.ipynb of github.com/openai/glide-text2im (2026-11-21)."""


class GlidePipeline(DiffusionPipeline):
    """Text to an image; both models are of the package's classes."""

    base: Any
    upsampler: Any
    register_modules: Any

    def __init__(self, base: Any, upsampler: Any):
        super().__init__()
        self.register_modules(base=base, upsampler=upsampler)
        self.image_processor = VaeImageProcessor()

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype = torch.float32, **_: Any) -> "GlidePipeline":
        """Loads a folder that `convert` wrote; the package computes in float16 or float32."""
        return cls(*(_load(Path(source) / stage, dtype != torch.float32) for stage in STAGES))

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return int(self.upsampler.options["image_size"])

    @property
    def max_prompt_tokens(self) -> int:
        """Most tokens of a prompt."""
        return int(self.base.options["text_ctx"])

    def tokenizer(self, prompt: str) -> SimpleNamespace:
        """Tokens of a prompt, as tokenizers of transformers give them."""
        return SimpleNamespace(input_ids=self.base.tokenizer.encode(prompt))

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str],
        negative_prompt: Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 3.0,
        generator: list[torch.Generator] | torch.Generator | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
    ) -> ImagePipelineOutput:
        """One image per prompt; `num_inference_steps` and `guidance_scale` apply to the base model.

        `callback_on_step_end` is called after each step of both models, as diffusers does, with their samples in -1…1 as `latents`.

        Raises:
            ValueError: a size other than the upsampler's.
        """
        if not {height, width} <= {None, self.image_size}:
            raise ValueError(f"GLIDE generates {self.image_size} x {self.image_size} pixels only; set that size")
        steps_done = count()

        def tell(samples: torch.Tensor) -> None:
            if callback_on_step_end:
                callback_on_step_end(self, next(steps_done), None, {"latents": samples})

        guided = guidance_scale > 1
        text = self._tokens("base", [*prompt, *(negative_prompt or [""] * len(prompt))] if guided else prompt)

        def predict(x: torch.Tensor, steps: torch.Tensor, **named: Any) -> torch.Tensor:
            if not guided:
                return self.base(x, steps, **text)
            output = self.base(torch.cat([x, x]), torch.cat([steps, steps]), **text)
            towards, away = output[:, :3].chunk(2)
            return torch.cat([away + guidance_scale * (towards - away), output[: len(x), 3:]], 1)

        small = self._sample("base", predict, len(prompt), str(num_inference_steps), 1.0, generator, tell)
        # the upsampler was trained on images of 256 levels
        named = self._tokens("upsampler", prompt) | {"low_res": ((small + 1) * 127.5).round() / 127.5 - 1}
        model = lambda x, steps, **_: self.upsampler(x, steps, **named)  # noqa: E731
        pixels = self._sample("upsampler", model, len(prompt), UPSAMPLER_STEPS, UPSAMPLER_TEMPERATURE, generator, tell)
        return ImagePipelineOutput(images=self.image_processor.postprocess(pixels, output_type=output_type))

    def _tokens(self, stage: str, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """`tokens` `[B, T]` and their `mask`."""
        model = getattr(self, stage)
        read, pad, length = model.tokenizer.encode, model.tokenizer.padded_tokens_and_mask, model.options["text_ctx"]
        rows = [pad(read(text), length) for text in prompts]
        device = next(model.parameters()).device
        model.del_cache()  # of the previous batch's text
        return {
            name: torch.tensor(column, device=device)
            for name, column in zip(("tokens", "mask"), zip(*rows, strict=True), strict=True)
        }

    def _sample(
        self,
        stage: str,
        model: Any,
        batch: int,
        steps: str,
        temperature: float,
        generator: Any,
        tell: Callable[[torch.Tensor], None],
    ) -> torch.Tensor:
        """Samples `[B, 3, H, W]` in -1…1 of one stage; `tell` is called with those of each step."""
        from glide_text2im.model_creation import create_gaussian_diffusion

        network = getattr(self, stage)
        options, device = network.options, next(network.parameters()).device
        shape = (batch, 3, options["image_size"], options["image_size"])
        diffusion = create_gaussian_diffusion(
            steps=options["diffusion_steps"], noise_schedule=options["noise_schedule"], timestep_respacing=steps
        )
        noise = randn_tensor(shape, generator=generator, device=device) * temperature
        samples = noise
        for state in diffusion.ddim_sample_loop_progressive(model, shape, noise=noise, device=device, eta=0.0):
            samples = state["sample"]
            tell(samples)
        return samples


def _load(folder: Path, half: bool) -> Any:
    """The network of one stage, with the `options` that it was built with."""
    from glide_text2im.model_creation import create_model_and_diffusion
    from safetensors.torch import load_file

    options = _defaults(folder.name) | json.loads((folder / "config.json").read_text())
    options |= {"use_fp16": half, "cache_text_emb": True}  # otherwise each step encodes the text again
    model, _ = create_model_and_diffusion(**options)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    if half:
        model.convert_to_fp16()
    model.options = options
    return model.eval().requires_grad_(False)


def _defaults(stage: str) -> dict[str, Any]:
    from glide_text2im import model_creation

    if stage == "base":
        return dict(model_creation.model_and_diffusion_defaults())
    return dict(model_creation.model_and_diffusion_defaults_upsampler())


def convert(base: Path, upsampler: Path, folder: Path) -> None:
    """Converts OpenAI's `base.pt` and `upsample.pt` to a folder of safetensors; only tensors are read from the pickles.

    Raises:
        ValueError: a file is missing or is not a dictionary of tensors.
    """
    import pickle

    from safetensors.torch import save_file

    for stage, path in zip(STAGES, (base, upsampler), strict=True):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            tensors = {name: value.contiguous() for name, value in state.items()}
        except (OSError, pickle.UnpicklingError, AttributeError, RuntimeError) as error:
            raise ValueError(
                f"{path} has no weights of GLIDE ({str(error).splitlines()[0]}); download it again"
            ) from error
        (folder / stage).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / stage / "model.safetensors")
        (folder / stage / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "GlidePipeline"}))
