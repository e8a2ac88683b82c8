"""The trained part of a retriever: an MLP after the frozen vision tower (RealRAG section 3.3)."""

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """Description of a head, of its training data and of its training settings."""

    encoder: str
    """Name of the embeddings that it takes, revision included (`ImageEncoder.name`)."""
    dimension: int
    """Dimension of the embeddings, before and after the head."""
    hidden: int
    """Width of the hidden layer; 0 for a head without an MLP, whose embeddings are the encoder's own."""
    residual: bool = True
    """Whether the MLP's output is added to its input; the untrained head then equals plain CLIP."""
    mix: float = 0.0
    """Weight of the input's direction in the result, 0 to 1: 0 is the MLP's output alone."""
    label: str = "head"
    """Name of the retriever: `normal`, `realrag`, …"""
    training: dict[str, Any] = field(default_factory=dict)
    """Training settings."""
    epoch: int = 0
    """Number of epochs that it was trained for."""


class Head(nn.Module):
    """Maps unit-norm image embeddings to unit-norm embeddings for the retriever's search; texts are not changed."""

    def __init__(self, spec: HeadSpec):
        super().__init__()
        if not 0 <= spec.mix <= 1:
            raise ValueError(f"mix {spec.mix} is no share; give a number from 0 to 1")
        self.spec = spec
        self.layers = nn.Sequential()
        if spec.hidden:
            last = nn.Linear(spec.hidden, spec.dimension)
            self.layers = nn.Sequential(nn.Linear(spec.dimension, spec.hidden), nn.GELU(), last)
            if spec.residual:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[..., D]` unit norm → `[..., D]` float32, unit norm."""
        if not self.spec.hidden:
            return embeddings
        moved = self.layers(embeddings)
        moved = F.normalize((embeddings + moved if self.spec.residual else moved).float(), dim=-1)
        if not self.spec.mix:
            return moved
        return F.normalize(self.spec.mix * embeddings + (1 - self.spec.mix) * moved, dim=-1)

    @property
    def name(self) -> str:
        """Name of its embeddings: the encoder, the retriever and a hash of everything that determines them."""
        kind = [self.spec.hidden, self.spec.residual, self.spec.mix]
        digest = blake2b(json.dumps(kind).encode(), digest_size=4)
        for tensor in self.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{self.spec.encoder}+{self.spec.label}-{digest.hexdigest()}"

    @torch.inference_mode()
    def embed(self, embeddings: np.ndarray) -> np.ndarray:
        """`[N, D]` float32, unit norm, from the encoder's `[N, D]`. Raises ValueError if the dimension differs."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.spec.dimension:
            raise ValueError(
                f"embeddings have shape {embeddings.shape}, and the head {self.spec.label} takes {self.spec.dimension} "
                f"numbers an image; give embeddings of {self.spec.encoder}"
            )
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        rows = torch.tensor(embeddings, dtype=torch.float32)
        return torch.cat([self(part.to(device)).cpu() for part in rows.split(ROWS_AT_ONCE)]).numpy()

    def check_encoder(self, encoder: str) -> None:
        """Raises ValueError, with both names, if the head was trained on embeddings of another encoder."""
        if encoder != self.spec.encoder:
            raise ValueError(
                f"the head {self.spec.label} was trained on embeddings of {self.spec.encoder}, and these are of {encoder}; "
                "use that encoder, or train a head for this one"
            )
