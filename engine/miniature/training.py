"""The one training loop: resumes by itself, keeps a moving average, and gives the same weights however often it was stopped."""

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.models.precision import native_dtype


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop of one model."""

    steps: int = 4000
    """Optimizer steps; the learning rate falls as a cosine to zero at the last."""
    batch_size: int = 128
    """Samples per step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.02
    """AdamW's weight decay, on matrices alone."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    average: float = 0.999
    """Decay of the moving average of the weights, which is what gets saved; 0 keeps none."""
    seed: int = 0
    """Seed of the weights and of every step's samples."""
    bfloat16: bool = True
    """Compute in bfloat16 (weights stay float32) on a device that has it: two to three times faster."""
    threads: int = 2
    """Processor threads."""
    device: str = ""
    """`cpu`, `cuda`, …; empty takes a GPU if there is one."""
    state: str = "runs/miniature"
    """Folder of the checkpoints a stopped run goes on from."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints."""
    log_seconds: float = 15.0
    """Seconds between progress lines."""

    def torch_device(self) -> torch.device:
        """The device to train on."""
        return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))


StepLoss = Callable[[torch.Generator], torch.Tensor]
"""Computes the loss of one step; all its randomness comes from the generator it is given."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))


def _save_atomically(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path.with_suffix(".tmp"), metadata)
    os.replace(path.with_suffix(".tmp"), path)


def _attention(device: str, half: bool) -> AbstractContextManager[None]:
    """Plain attention where torch's own choice is slow: its bfloat16 kernel for processors, at a few dozen tokens.

    A step of the generator takes 0.26 s instead of 0.36.
    """
    return sdpa_kernel(SDPBackend.MATH) if half and device == "cpu" else nullcontext()


class Trainer:
    """Trains the parameters of one module; `average` holds the smoothed weights when it is done."""

    def __init__(self, name: str, model: nn.Module, config: TrainConfig, say: Callable[[str], None] = print) -> None:
        self.name, self.model, self.config, self.say = name, model, config, say
        self.path = Path(config.state) / f"{name}.safetensors"
        matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
        self.parameters = matrices + others
        self.average = {key: value.detach().clone() for key, value in model.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        """Seconds trained so far, over all resumes."""

    def run(self, loss_of_step: StepLoss) -> None:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises:
            ValueError: the loss is not finite.
        """
        if self.path.exists():
            self._load()
        if self.step >= self.config.steps:
            return
        self.model.train()
        started = saved = logged = time.monotonic()
        before, logged_step = self.seconds, self.step
        while self.step < self.config.steps:
            loss = self._one_step(loss_of_step)
            now = time.monotonic()
            self.seconds = before + now - started
            last = self.step == self.config.steps
            if now - logged >= self.config.log_seconds or last:
                if not math.isfinite(loss.item()):
                    raise ValueError(f"The loss of {self.name} is {loss.item()} at step {self.step}; lower --lr.")
                speed = (self.step - logged_step) / max(now - logged, 1e-9)
                eta = (self.config.steps - self.step) / max(speed, 1e-9) / 60
                self.say(
                    f"{self.name} step {self.step}/{self.config.steps} loss {loss.item():.4f} "
                    f"{speed * self.config.batch_size:.0f} samples/s eta {eta:.1f} min"
                )
                logged, logged_step = now, self.step
            if now - saved >= self.config.checkpoint_seconds or last:
                self.save()
                saved = now

    def _one_step(self, loss_of_step: StepLoss) -> torch.Tensor:
        # a step's samples are a function of (seed, step) alone, so a resumed run sees the same samples
        rng = torch.Generator().manual_seed((self.config.seed << 32) + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        device = self.config.torch_device().type
        half = self.config.bfloat16 and native_dtype("bfloat16", device) == "bfloat16"
        with _attention(device, half):
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = loss_of_step(rng)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        # a young average would remember the random start
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
                else:
                    self.average[key].copy_(value)
        return loss.detach()

    def averaged(self) -> nn.Module:
        """Put the averaged weights into the model and return it in evaluation mode."""
        self.model.load_state_dict(self.average)
        return self.model.eval()

    def save(self) -> None:
        """Write weights, average and optimizer state; a reader never sees half of it."""
        tensors = {f"model/{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"average/{key}": value for key, value in self.average.items()}
        for i, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{i}/{key}"] = value
        unshared = {key: value.detach().clone() for key, value in tensors.items()}
        _save_atomically(unshared, self.path, {"step": str(self.step), "seconds": str(self.seconds)})

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(self.path)
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model/")})
        for key, value in self.average.items():
            value.copy_(tensors[f"average/{key}"])
        for i, parameter in enumerate(self.parameters):
            prefix = f"optimizer/{i}/"
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            self.optimizer.state[parameter] = {
                k: v if k == "step" else v.to(parameter.device) for k, v in state.items()
            }
        self.say(f"{self.name} goes on from step {self.step}")
