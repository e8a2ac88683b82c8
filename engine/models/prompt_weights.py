"""Attention weights in prompts: `(x)` counts 1.1 times, `((x))` 1.21 times, and `\\(` is a bracket that is only a bracket.

The text encoder's output of each token is moved away from that of an empty prompt, by the token's weight, with compel
(github.com/damian0815/compel); compel's own prompt language is not used, since it would take the `-`, `+`, `.` and `,` of class
names for operators.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

WEIGHT_PER_BRACKET = 1.1
"""What a pair of brackets multiplies the attention by, as Stable Diffusion's community writes it (GenBench section 9)."""


class Weighted(NamedTuple):
    """A prompt without its marks."""

    text: str
    """What the tokenizer reads."""
    weights: tuple[float, ...]
    """The weight of each character of `text`."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing is weighted."""
        return all(weight == 1 for weight in self.weights)


def escape(text: str) -> str:
    """The prompt that says `text` literally, brackets and backslashes included."""
    if "(" not in text and ")" not in text and "\\" not in text:
        return text
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def read_weights(prompt: str) -> Weighted:
    """The text of a prompt and the weight of each of its characters.

    Raises:
        ValueError: a bracket has no partner.
    """
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
            f"the prompt {prompt!r} has a bracket without a partner; write \\( or \\) for a bracket as text"
        )
    return Weighted("".join(letters), tuple(weights))


def takes_weights(pipeline: Any) -> bool:
    """Whether a diffusers pipeline can be given weighted prompts: the families of Stable Diffusion 1 and 2, SDXL and FLUX.1."""
    name = type(pipeline).__name__
    return name.startswith(("StableDiffusion", "Flux")) and not name.startswith(("StableDiffusion3", "Flux2"))


def prompt_embeds(
    pipeline: Any, prompt: str, negative_prompt: str | None = None, *, max_sequence_length: int = 512
) -> dict[str, "torch.Tensor"]:
    """Keyword arguments that put a prompt, with its weights, in the place of `prompt` in a call of the pipeline.

    `prompt_embeds` `[1, T, D]` and, where the pipeline takes them, `pooled_prompt_embeds` `[1, P]`; with a negative prompt
    the same under `negative_…`. A prompt without weights gives the pipeline's own embeddings. Pooled embeddings sum up
    the whole prompt and stay as they are. `max_sequence_length`: tokens of FLUX's T5 (256 for FLUX.1-schnell).

    Raises:
        ValueError: a bracket has no partner, or the pipeline takes no weights.
    """
    embeds = _embed(pipeline, prompt, max_sequence_length)
    if negative_prompt is not None:
        negative = _embed(pipeline, negative_prompt, max_sequence_length)
        embeds |= {f"negative_{name}": tensor for name, tensor in negative.items()}
    return embeds


def _embed(pipeline: Any, prompt: str, max_sequence_length: int) -> dict[str, "torch.Tensor"]:
    import torch

    weighted = read_weights(prompt)
    if not takes_weights(pipeline):
        raise ValueError(
            f"{type(pipeline).__name__} takes no weighted prompts; leave the brackets out, or write \\( and \\) for them as text"
        )
    family = type(pipeline).__name__
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    if not weighted.is_plain and convert and convert(weighted.text, pipeline.tokenizer) != weighted.text:
        raise ValueError("a learned token of several vectors takes no weights beside it; leave the brackets out")
    device = pipeline._execution_device
    with torch.inference_mode():
        if family.startswith("Flux"):
            embeds, pooled, _ = pipeline.encode_prompt(
                prompt=weighted.text, prompt_2=None, device=device, max_sequence_length=max_sequence_length
            )
            encoders = [(pipeline.tokenizer_2, pipeline.text_encoder_2, "LAST_HIDDEN_STATES_NORMALIZED")]
        elif family.startswith("StableDiffusionXL"):
            embeds, _, pooled, _ = pipeline.encode_prompt(
                weighted.text, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            kind = "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED"
            encoders = [
                (tokenizer, encoder, kind)
                for tokenizer, encoder in (
                    (pipeline.tokenizer, pipeline.text_encoder),
                    (pipeline.tokenizer_2, pipeline.text_encoder_2),
                )
                if encoder is not None  # the refiner has the second one alone
            ]
        else:
            embeds, _ = pipeline.encode_prompt(weighted.text, device, 1, False)
            pooled = None
            encoders = [(pipeline.tokenizer, pipeline.text_encoder, "LAST_HIDDEN_STATES_NORMALIZED")]
        if not weighted.is_plain:
            parts = [_weigh(weighted, *encoder, embeds.shape[1], device) for encoder in encoders]
            embeds = torch.cat(parts, dim=-1).to(embeds)
    named = {"prompt_embeds": embeds}
    if pooled is not None:
        named["pooled_prompt_embeds"] = pooled
    return named


def _weigh(weighted: Weighted, tokenizer: Any, encoder: Any, kind: str, length: int, device: Any) -> "torch.Tensor":
    """Embeddings `[1, length, D]` of one text encoder with the weights applied."""
    import torch
    from compel.embeddings_provider import EmbeddingsProvider, ReturnedEmbeddingsType

    # the whole text is tokenized as the pipeline does it; tokens take the largest weight of their characters
    tokens = tokenizer(
        weighted.text, padding="max_length", max_length=length, truncation=True, return_offsets_mapping=True
    )
    weights = [max(weighted.weights[start:end], default=1.0) for start, end in tokens["offset_mapping"]]
    provider = EmbeddingsProvider(
        tokenizer=tokenizer,
        text_encoder=encoder,
        returned_embeddings_type=ReturnedEmbeddingsType[kind],
        model_max_length=length,
        device=device,
    )
    return provider.build_weighted_embedding_tensor(
        torch.tensor(tokens["input_ids"], device=device), torch.tensor(weights, device=device), None, device=device
    )
