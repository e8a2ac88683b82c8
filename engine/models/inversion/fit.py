"""`fit_tokens`: one learned token per category, many categories in one batch of a frozen denoiser (GenBench section 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.models.inversion.conditioning import Prompts
from engine.models.inversion.config import LEAST_PIXELS, InversionConfig
from engine.models.inversion.noise import Noise
from engine.models.inversion.tokens import LearnedToken
from engine.models.references import fit

if TYPE_CHECKING:
    import torch

    from engine.models.generator import DiffusionGenerator


@dataclass(frozen=True)
class Category:
    """A category and its reference images."""

    token: str
    """Name of the token to learn."""
    images: Sequence[np.ndarray]
    """References, uint8 `[H, W, 3]` of any size."""
    templates: Sequence[str]
    """Prompts that the token is learned in, each with `{c}` in its place; those that images are generated with work best."""
    seed: int
    """Of start, noise and choices. A token depends on its own category alone, at equal `categories_per_batch`."""
    source: str = "original"
    """Source of the references, which decides the rate."""


@dataclass(frozen=True)
class Fitted:
    """A learned token and how its fit went."""

    token: LearnedToken | None
    """None if the fit ended in numbers that are not finite."""
    losses: list[float]
    """Mean loss of each tenth of the steps. It hardly tells good tokens from bad ones: choose by what is generated."""


OnStep = Callable[[int], None]
"""Called after each step with its number, from 1."""


def check_references(token: str, sizes: Sequence[tuple[int, int]], allow_small: bool) -> None:
    """Checks the sizes (height, width in pixels) of the references of a token.

    Raises:
        ValueError: there are none, or some are smaller than `LEAST_PIXELS` and `allow_small` is false.
    """
    if not sizes:
        raise ValueError(f"{token} has no reference image; give at least one")
    small = [size for size in sizes if min(size) < LEAST_PIXELS]
    if small and not allow_small:
        height, width = small[0]
        raise ValueError(
            f"{len(small)} of {len(sizes)} reference images of {token} are smaller than {LEAST_PIXELS}x{LEAST_PIXELS} pixels (the first is "
            f"{height}x{width}), and tokens fitted on such images do not converge (GenBench section 11); give larger ones, or allow "
            "them with --inject.allow-small"
        )


def check_supported(generator: "DiffusionGenerator") -> None:
    """Raises ValueError if the generator's family takes no learned tokens."""
    if not generator.adapter.vocabularies:
        raise ValueError(
            f"generator {generator.spec.name} ({generator.spec.pipeline}) takes no learned tokens; choose a Stable Diffusion 1, 2 or XL "
            "generator, or mini"
        )


def fit_tokens(
    generator: "DiffusionGenerator",
    categories: Sequence[Category],
    config: InversionConfig,
    on_step: OnStep | None = None,
) -> list[Fitted]:
    """Learns one token per category, `config.categories_per_batch` at a time; a smaller batch is filled up with its last category.

    The weights of the generator stay as they are; its text encoders are brought to float32.

    Raises:
        ValueError: the generator takes no tokens, a category has no images, a template does not fit into the text encoder, or one
            category does not fit into the memory of the device.
    """
    import torch

    check_supported(generator)
    for category in categories:
        check_references(category.token, [image.shape[:2] for image in category.images], allow_small=True)
    generator.adapter.pipeline.unet.requires_grad_(False)
    size, position = config.categories_per_batch, 0
    found: list[Fitted] = []
    while position < len(categories):
        part = list(categories[position : position + size])
        padded = part + part[-1:] * (size - len(part))
        try:
            found += _Batch(generator, padded, config).run(on_step)[: len(part)]
        except (torch.OutOfMemoryError, MemoryError):
            if size == 1:
                raise ValueError(
                    f"{config.samples_per_step} noisy images of one category do not fit into the memory of {generator.device}; "
                    "lower the samples per step"
                ) from None
            size //= 2
            continue
        position += len(part)
    return found


class _Batch:
    """Categories that are fitted together: `C` of them, `S` noisy images of each per step."""

    def __init__(self, generator: "DiffusionGenerator", categories: Sequence[Category], config: InversionConfig):
        import torch

        self._generator, self._categories, self._config = generator, categories, config
        self._unet = generator.adapter.pipeline.unet
        self._noise = Noise(generator)
        # one generator of random numbers per category, so that a token does not depend on its companions
        self._rngs = [torch.Generator().manual_seed(category.seed) for category in categories]
        self._prompts = Prompts(generator, config.vectors)
        self._latents = [self._encode(category.images) for category in categories]
        self._ids = [
            self._prompts.tokenize(category.templates) for category in categories
        ]  # category → vocabulary → [T, L]
        self._guidance = generator.spec.distilled_guidance
        self._bank = self._fill_bank() if config.bank else None

    def _encode(self, images: Sequence[np.ndarray]) -> "torch.Tensor":
        """`[N, c, h, w]` latents of the references, each encoded alone."""
        import torch

        spec, vae = self._generator.spec, self._generator.adapter.pipeline.vae
        found = []
        with torch.no_grad():
            for image in images:
                pixels = torch.from_numpy(np.asarray(fit(image, spec.height, spec.width)).copy())
                pixels = pixels.permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
                found.append(vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor)
        return torch.cat(found).float()

    def _samples(self, num: int, start: int = 0) -> "tuple[torch.Tensor, ...]":
        """(Noisy latents, times, targets) `[C, num, …]` of new noise; the references take turns, beginning with number `start`."""
        import torch

        parts = []
        for latents, rng in zip(self._latents, self._rngs, strict=True):
            # in a bank each reference stands equally often; without one they are drawn
            turn = torch.arange(start, start + num) % len(latents)
            chosen = turn if self._config.bank else torch.randint(len(latents), (num,), generator=rng)
            clean = latents[chosen.to(latents.device)]
            noise = torch.randn(clean.shape, generator=rng).to(clean.device)
            levels = self._noise.levels(num, self._config.sampler_share, rng).to(clean.device)
            parts.append(self._noise.add(clean, noise, levels))
        noisy, times, targets = (torch.stack(each) for each in zip(*parts, strict=True))
        if self._guidance != 1:
            # the weights answer with guidance, so a token that is fitted on plain targets learns to undo it
            with torch.no_grad():
                empty = self._denoise(noisy, times, self._prompts.nothing(times.numel()))
            targets = empty + self._guidance * (targets - empty)
        return noisy, times, targets

    def _denoise(self, noisy: "torch.Tensor", times: "torch.Tensor", conditions: dict[str, Any]) -> "torch.Tensor":
        """`[C, S, …]` float32, the denoiser's answer."""
        answer = self._unet(noisy.flatten(0, 1).to(self._unet.dtype), times.flatten(), **conditions).sample
        return answer.float().view_as(noisy)

    def _fill_bank(self) -> "tuple[torch.Tensor, ...]":
        import torch

        per_call = max(1, self._config.samples_per_step)
        parts = [self._samples(per_call, start) for start in range(0, self._config.bank, per_call)]
        return tuple(torch.cat(each, dim=1) for each in zip(*parts, strict=True))

    def _draw(self) -> "tuple[torch.Tensor, ...]":
        """Samples of one step, from the bank if there is one."""
        import torch

        num = self._config.samples_per_step
        if self._bank is None:
            return self._samples(num)
        size = self._bank[0].shape[1]
        rows = torch.stack([torch.randint(size, (num,), generator=rng) for rng in self._rngs])
        rows = rows.to(self._bank[0].device)
        of = torch.arange(len(rows), device=rows.device)[:, None]
        return tuple(each[of, rows] for each in self._bank)

    def run(self, on_step: OnStep | None) -> list[Fitted]:
        """Takes all steps."""
        import torch

        config = self._config
        rows = [each.start(config.start_noise, self._rngs).requires_grad_() for each in self._prompts.vocabularies]
        # a rate per category would be a group each; a row's update is linear in the rate, so it is scaled afterwards
        rates = torch.tensor([config.rate(category.source) for category in self._categories], device=rows[0].device)
        optimizer = torch.optim.AdamW(rows, lr=1.0, weight_decay=0.0)
        losses = []
        for step in range(config.steps):
            noisy, times, targets = self._draw()
            chosen = [
                int(torch.randint(len(category.templates), (1,), generator=rng))
                for category, rng in zip(self._categories, self._rngs, strict=True)
            ]
            ids = [
                torch.stack([of[number][row] for of, row in zip(self._ids, chosen, strict=True)])
                for number in range(len(rows))
            ]
            conditions = self._prompts.conditions(ids, rows, noisy.shape[1])
            answer = self._denoise(noisy, times, conditions)
            loss = (answer - targets).square().flatten(1).mean(1)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            before = [each.detach().clone() for each in rows]
            optimizer.step()
            with torch.no_grad():
                for each, old in zip(rows, before, strict=True):
                    each.copy_(old + (each - old) * (rates * config.share_of_rate(step))[:, None, None])
            losses.append(loss.detach())
            if on_step:
                on_step(step + 1)
        return self._result([each.detach().cpu() for each in rows], torch.stack(losses).cpu())

    def _result(self, rows: "list[torch.Tensor]", losses: "torch.Tensor") -> list[Fitted]:
        import torch

        found = []
        for number, category in enumerate(self._categories):
            vectors = {
                vocabulary.name: each[number].clone()
                for vocabulary, each in zip(self._prompts.vocabularies, rows, strict=True)
            }
            is_finite = all(bool(torch.isfinite(each).all()) for each in vectors.values())
            token = LearnedToken(category.token, vectors) if is_finite else None
            parts = [part for part in losses[:, number].tensor_split(10) if len(part)]
            found.append(Fitted(token, [float(part.mean()) for part in parts]))
        return found
