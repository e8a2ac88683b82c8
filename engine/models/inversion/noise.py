"""Noisy latents and what the denoiser should answer, in the terms of the pipeline's own scheduler."""

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from engine.models.generator import DiffusionGenerator

NUM_LEVELS = 1000
"""Noise levels of the schedules that the denoisers were trained with."""


class Noise:
    """Adds noise to latents at a level, and gives the denoiser's target: noise, velocity or flow, as the scheduler says."""

    def __init__(self, generator: "DiffusionGenerator"):
        from diffusers import DDPMScheduler

        scheduler = copy.deepcopy(generator.adapter.pipeline.scheduler)
        self._kind = scheduler.config.get("prediction_type", "epsilon")
        self._is_flow = self._kind == "flow_prediction"
        scheduler.set_timesteps(generator.spec.num_inference_steps)
        times = scheduler.timesteps.float().cpu()
        self.own_levels: torch.Tensor = times.div(NUM_LEVELS) if self._is_flow else times.long()
        """Levels of the sampler's default steps: shares of noise in a flow, else numbers of the schedule."""
        self._schedule: Any = None if self._is_flow else DDPMScheduler.from_config(scheduler.config)

    def levels(self, num: int, sampler_share: float, rng: "torch.Generator") -> "torch.Tensor":
        """`[num]` levels: this share of them the sampler's own, the others uniform."""
        import torch

        own = self.own_levels[torch.randint(len(self.own_levels), (num,), generator=rng)]
        uniform = torch.rand(num, generator=rng)
        is_own = torch.rand(num, generator=rng) < sampler_share
        if not self._is_flow:
            uniform = (uniform * self._schedule.config.num_train_timesteps).long()
        return torch.where(is_own, own, uniform)

    def add(
        self, clean: "torch.Tensor", noise: "torch.Tensor", levels: "torch.Tensor"
    ) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """(Noisy latents, times for the denoiser, target) of latents `[N, C, h, w]`, noise of that shape and levels `[N]`."""
        import torch

        if self._is_flow:
            noisy = torch.lerp(clean, noise, levels[:, None, None, None])
            return noisy, levels * NUM_LEVELS, noise - clean
        noisy = self._schedule.add_noise(clean, noise, levels)
        is_velocity = self._kind == "v_prediction"
        return noisy, levels, self._schedule.get_velocity(clean, noise, levels) if is_velocity else noise
