"""`InversionConfig`: settings of Textual Inversion, and the presets that `presets.toml` names."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from engine.names import unknown_name

LEAST_PIXELS = 32
"""Tokens fitted on images below this size do not converge (GenBench section 11)."""


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """How one token per category is fitted; the generator stays frozen."""

    steps: int
    """Optimizer steps per category."""
    learning_rate: float
    """AdamW's rate, without decay of the weights, for tokens fitted on original images."""
    learning_rate_retrieval: float
    """The rate for tokens fitted on retrieved images."""
    samples_per_step: int
    """Noisy images of each category per step."""
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "cosine"
    """Course of the rate: constant, one fall to zero, or one fall per quarter of the steps."""
    vectors: int = 1
    """Rows of the embedding table that one token stands for; the paper's is 1."""
    start_noise: float = 0.0
    """Noise added to the start, as a share of the spread of all rows; the start is the mean of all rows."""
    sampler_share: float = 0.0
    """Share of the noise levels that are those of the sampler's default steps; the others are uniform."""
    bank: int = 0
    """Noisy samples per category that are prepared once and drawn from; 0 prepares new ones at each step."""
    categories_per_batch: int = 1
    """Categories that share each pass of the frozen denoiser; halved when the device runs out of memory."""

    def __post_init__(self) -> None:
        """Raises ValueError if a setting is out of range."""
        for name in ("steps", "samples_per_step", "vectors", "categories_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the inversion is {getattr(self, name)}; give 1 or more")
        for name in ("learning_rate", "learning_rate_retrieval"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} of the inversion is {value}; give a positive number")
        if self.bank < 0 or self.start_noise < 0:
            raise ValueError("bank and start_noise of the inversion are counts and shares; give 0 or more")
        if not 0 <= self.sampler_share <= 1:
            raise ValueError(f"sampler_share of the inversion is {self.sampler_share}; give a share from 0 to 1")
        if self.schedule not in ("constant", "cosine", "cosine_restarts"):
            raise ValueError(unknown_name("schedule", self.schedule, ["constant", "cosine", "cosine_restarts"]))

    def rate(self, source: str) -> float:
        """The rate for tokens fitted on images of a source."""
        return self.learning_rate_retrieval if source == "retrieval" else self.learning_rate

    def share_of_rate(self, step: int) -> float:
        """Share of the rate at a step, from 0."""
        if self.schedule == "constant":
            return 1.0
        part = step / self.steps
        if self.schedule == "cosine_restarts":
            part = (part * 4) % 1.0
        return 0.5 * (1 + math.cos(math.pi * part))


@cache
def _presets() -> Mapping[str, dict[str, Any]]:
    return tomllib.loads(files("engine.models.inversion").joinpath("presets.toml").read_text("utf-8"))


PRESETS: tuple[str, ...] = ("paper", "official", "mini")
"""Names of the presets."""


def preset(name: str, **changes: Any) -> InversionConfig:
    """The settings of a preset, with changes; those that are None are left out. Raises ValueError if there is none of that name."""
    if name not in PRESETS:
        raise ValueError(unknown_name("preset", name, PRESETS))
    return InversionConfig(**_presets()[name] | {key: value for key, value in changes.items() if value is not None})
