"""Attention weights in prompts: `(x)` weighs 1.1, `((x))` weighs 1.21, and `\\(` is a literal bracket.

Each token's embedding is moved away from that of an empty prompt by the token's weight, with compel
(github.com/damian0815/compel). compel's own prompt language is not used, since it would read the `-`, `+`, `.` and `,` of
class names as operators.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

WEIGHT_PER_BRACKET = 1.1
"""Factor per pair of brackets, the convention of Stable Diffusion's users (GenBench section 9)."""


class WeightedPrompt(NamedTuple):
    """A prompt and the weight of each of its characters."""

    text: str
    """The prompt without the brackets that weight it."""
    weights: tuple[float, ...]
    """One weight per character of `text`."""

    @property
    def is_plain(self) -> bool:
        """Whether all weights are 1."""
        return all(weight == 1 for weight in self.weights)


def escape(text: str) -> str:
    """A prompt that means `text` literally: its brackets and backslashes are escaped."""
    if "(" not in text and ")" not in text and "\\" not in text:
        return text
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def read_weights(prompt: str) -> WeightedPrompt:
    """Parses a prompt. Raises ValueError for an unmatched bracket."""
    letters: list[str] = []
    weights: list[float] = []
    depth = 0
    position = 0
    while position < len(prompt):
        letter = prompt[position]
        if letter == "\\" and prompt[position + 1 : position + 2] in ("(", ")", "\\"):
            position += 1
            letter = prompt[position]
        elif letter in "()":
            depth += 1 if letter == "(" else -1
            if depth < 0:
                break
            position += 1
            continue
        letters.append(letter)
        weights.append(round(WEIGHT_PER_BRACKET**depth, 6))
        position += 1
    if depth:
        raise ValueError(
            f"the prompt {prompt!r} has an unmatched bracket; close it, or write \\( or \\) for a literal bracket"
        )
    return WeightedPrompt("".join(letters), tuple(weights))


class TextEncoder(NamedTuple):
    """One text encoder of a pipeline."""

    tokenizer: Any
    model: Any
    """None where the pipeline was loaded without it."""
    layer: str = "LAST_HIDDEN_STATES_NORMALIZED"
    """Layer that the pipeline reads, as compel's `ReturnedEmbeddingsType` names it."""


def weight_embeds(
    pipeline: Any, prompt: WeightedPrompt, embeds: "torch.Tensor", encoders: Sequence[TextEncoder]
) -> "torch.Tensor":
    """The embeddings `[1, T, D]` of a prompt's text with its weights applied; those of a plain prompt are returned unchanged.

    `encoders`: the text encoders whose outputs are concatenated in D. Pooled embeddings are not weighted, since they
    summarise the whole prompt. Raises ValueError for a learned token that stands for several vectors.
    """
    import torch

    if prompt.is_plain:
        return embeds
    expand = getattr(pipeline, "maybe_convert_prompt", None)
    if expand and expand(prompt.text, pipeline.tokenizer) != prompt.text:
        raise ValueError("a learned token of several vectors cannot stand beside prompt weights; remove the brackets")
    with torch.inference_mode():
        parts = [_weigh(prompt, encoder, embeds) for encoder in encoders if encoder.model is not None]
        return torch.cat(parts, dim=-1).to(embeds)


def _weigh(prompt: WeightedPrompt, encoder: TextEncoder, embeds: "torch.Tensor") -> "torch.Tensor":
    """Weighted embeddings `[1, T, D]` of one text encoder, of the length and on the device of `embeds`."""
    import torch
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

    length, device = embeds.shape[1], embeds.device
    # the text is tokenized whole, as the pipeline does it; a token takes the largest weight of its characters
    tokens = encoder.tokenizer(
        prompt.text, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True
    )
    weights = [max(prompt.weights[start:end], default=1.0) for start, end in tokens["offset_mapping"]]
    provider = EmbeddingsProvider(
        tokenizer=encoder.tokenizer,
        text_encoder=encoder.model,
        returned_embeddings_type=ReturnedEmbeddingsType[encoder.layer],
        model_max_length=length,
        device=device,
    )
    return provider.build_weighted_embedding_tensor(
        torch.tensor(tokens["input_ids"], device=device), torch.tensor(weights, device=device), None, device=device
    )
