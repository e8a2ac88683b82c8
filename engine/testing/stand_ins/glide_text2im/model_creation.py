"""The calls that engine/models/generators/glide_pipeline.py makes, answered by a small network and a plain DDIM sampler."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate, silu


def model_and_diffusion_defaults() -> dict[str, Any]:
    return {
        "image_size": 64,
        "num_channels": 192,
        "num_res_blocks": 3,
        "channel_mult": "",
        "num_head_channels": 64,
        "attention_resolutions": "32,16,8",
        "text_ctx": 128,
        "xf_width": 512,
        "xf_layers": 16,
        "xf_heads": 8,
        "diffusion_steps": 1000,
        "noise_schedule": "squaredcos_cap_v2",
        "use_fp16": True,
        "cache_text_emb": False,
        "super_res": False,
    }


def model_and_diffusion_defaults_upsampler() -> dict[str, Any]:
    changes = {"image_size": 256, "num_res_blocks": 2, "noise_schedule": "linear", "super_res": True}
    return model_and_diffusion_defaults() | changes


class Tokenizer:
    """One token a byte."""

    n_vocab = 257

    def encode(self, text: str) -> list[int]:
        return list(text.lower().encode())

    def padded_tokens_and_mask(self, tokens: list[int], text_ctx: int) -> tuple[list[int], list[bool]]:
        kept = tokens[:text_ctx]
        padding = text_ctx - len(kept)
        return kept + [self.n_vocab - 1] * padding, [True] * len(kept) + [False] * padding


class Model(torch.nn.Module):
    """Noise and variance `[B, 6, H, W]` from noisy pixels, step, text, and for the upsampler the small image."""

    def __init__(self, num_channels: int, text_ctx: int, super_res: bool, use_fp16: bool, cache_text_emb: bool):
        super().__init__()
        self.cache_text_emb = cache_text_emb
        self.cache: torch.Tensor | None = None
        self.tokenizer = Tokenizer()
        self.dtype = torch.float16 if use_fp16 else torch.float32
        self.token_embedding = torch.nn.Embedding(self.tokenizer.n_vocab, num_channels)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(text_ctx, num_channels))
        self.time_embed = torch.nn.Linear(1, num_channels)
        self.read = torch.nn.Conv2d(6 if super_res else 3, num_channels, 3, padding=1)
        self.out = torch.nn.Conv2d(num_channels, 6, 3, padding=1)

    def convert_to_fp16(self) -> None:
        self.half()

    def del_cache(self) -> None:
        self.cache = None

    def get_text_emb(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.cache is not None:
            return self.cache
        words = (self.token_embedding(tokens) * (1 + self.positional_embedding)) * mask[..., None]
        self.cache = words.mean(1) if self.cache_text_emb else None
        return words.mean(1)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        low_res: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if low_res is not None:
            x = torch.cat([x, interpolate(low_res, x.shape[2:], mode="bilinear")], 1)
        told = self.get_text_emb(tokens, mask) + self.time_embed(timesteps[:, None] / 1000)
        return self.out(silu(self.read(x) + told[..., None, None]))


class Diffusion:
    """DDIM (Song et al. 2020) over the steps asked for."""

    def __init__(self, steps: int, noise_schedule: str, timestep_respacing: str):
        number = 27 if timestep_respacing == "fast27" else int(timestep_respacing)
        self.steps = torch.linspace(0, steps - 1, number).round().long()
        share = torch.linspace(0, 1, steps + 1)[1:].double()
        cosine = noise_schedule == "squaredcos_cap_v2"
        kept = torch.cos(share * torch.pi / 2) ** 2 if cosine else torch.exp(-10 * share**2)
        self.alphas = kept.clamp(1e-4, 1 - 1e-4).float()

    def ddim_sample_loop_progressive(
        self,
        model: Callable[..., torch.Tensor],
        shape: Sequence[int],
        noise: torch.Tensor,
        device: Any = None,
        eta: float = 0.0,
    ) -> Iterator[dict[str, torch.Tensor]]:
        assert eta == 0.0
        x = noise
        for number in reversed(range(len(self.steps))):
            step = self.steps[number]
            alpha = self.alphas[step]
            before = self.alphas[self.steps[number - 1]] if number else torch.tensor(1.0)
            predicted = model(x, step.expand(shape[0]).to(device))
            assert predicted.shape == (shape[0], 6, *shape[2:])
            clean = ((x - (1 - alpha).sqrt() * predicted[:, :3]) / alpha.sqrt()).clamp(-1, 1)
            x = before.sqrt() * clean + (1 - before).sqrt() * (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            yield {"sample": x, "pred_xstart": clean}


def create_gaussian_diffusion(steps: int, noise_schedule: str, timestep_respacing: str) -> Diffusion:
    return Diffusion(steps, noise_schedule, timestep_respacing)


def create_model_and_diffusion(**options: Any) -> tuple[Model, Diffusion]:
    names = ("num_channels", "text_ctx", "super_res", "use_fp16", "cache_text_emb")
    model = Model(**{name: options[name] for name in names})
    return model, Diffusion(options["diffusion_steps"], options["noise_schedule"], str(options["diffusion_steps"]))
