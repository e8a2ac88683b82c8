"""Embeddings of prompts, kept so that each prompt is encoded once."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Embeddings = dict[str, "torch.Tensor"]
"""Keyword argument of a pipeline call → tensor."""


class PromptCache:
    """Embeddings of prompts, each encoded once and alone: a text encoder's rounding may depend on the number of texts per batch."""

    def __init__(self, max_bytes: int = 1 << 30):
        self.max_bytes = max_bytes
        self._found: dict[tuple[str, str], Embeddings] = {}
        self._bytes = 0

    def stack(self, encode: Callable[[str], Embeddings], prompts: Sequence[str]) -> Embeddings:
        """Embeddings of a batch of prompts, `[B, …]` each; beyond `max_bytes` the least recently used prompts are dropped.

        `encode` returns the embeddings of one prompt without the batch dimension.
        """
        import torch

        rows = []
        for prompt in prompts:
            key = encode.__name__, prompt
            found = self._found.pop(key, None)
            if found is None:
                found = encode(prompt)
                self._bytes += _num_bytes(found)
            self._found[key] = found  # the most recently used stands last
            rows.append(found)
        while self._bytes > self.max_bytes and len(self._found) > 1:
            self._bytes -= _num_bytes(self._found.pop(next(iter(self._found))))
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _num_bytes(embeddings: Embeddings) -> int:
    return sum(value.numel() * value.element_size() for value in embeddings.values())
