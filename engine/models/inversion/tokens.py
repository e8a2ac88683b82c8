"""Learned tokens: their names, their files in the form that diffusers reads, and their entry into a pipeline."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.names import plain_name

if TYPE_CHECKING:
    import torch

MARK = "+token@"
"""Stands between the revision of the weights and the hash of the token in the revision of a recipe."""
_SIGNS = re.compile(r"[()|<>\\]")
_WRITTEN = re.compile(r"<\|[^|]*\|>")


def token_name(dataset: str, class_name: str) -> str:
    """`<|voc-2007 potted plant|>`, the paper's form. Lower case, since a tokenizer lowers its input and then fails to find the others
    of several vectors; without brackets, which weight a prompt."""
    text = _SIGNS.sub(" ", f"{dataset.lower()} {plain_name(class_name)}")
    return f"<|{' '.join(text.split())}|>"


def token_names(dataset: str, class_names: Sequence[str]) -> list[str]:
    """One token per class, all different: classes that differ in case or punctuation alone get a number."""
    found: list[str] = []
    for class_name in class_names:
        name, number = token_name(dataset, class_name), 2
        while name in found:
            name, number = token_name(dataset, f"{class_name} {number}"), number + 1
        found.append(name)
    return found


def written_tokens(prompt: str) -> list[str]:
    """The tokens `<|…|>` that a prompt holds."""
    return _WRITTEN.findall(prompt)


@dataclass(frozen=True, eq=False)
class LearnedToken:
    """A token and its vectors."""

    name: str
    """As prompts hold it."""
    vectors: "Mapping[str, torch.Tensor]"
    """Vocabulary (`emb_params`, or `clip_l` and `clip_g`) → `[K, D]` float32."""

    def to_bytes(self) -> bytes:
        """A safetensors file. One vocabulary: `{name: vectors}`, which `load_textual_inversion` reads as it is. Two: the community's
        `{clip_l, clip_g}`, each of which it reads with `token=name` and the text encoder that it belongs to."""
        from safetensors.torch import save

        # a view would share its memory, which safetensors refuses
        plain = {key: value.detach().float().cpu().contiguous().clone() for key, value in self.vectors.items()}
        if list(plain) == ["emb_params"]:
            plain = {self.name: plain["emb_params"]}
        return bytes(save(plain, {"format": "pt", "token": self.name}))

    @classmethod
    def from_bytes(cls, name: str, data: bytes) -> "LearnedToken":
        """The token of a file that `to_bytes` made. Raises ValueError for other bytes."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            vectors = load(data)
        except SafetensorError as error:
            raise ValueError(f"the learned token {name} is not a safetensors file ({error}); fit it again") from error
        return cls(name, {"emb_params": vectors[name]} if list(vectors) == [name] else vectors)


def add_tokens(pipeline: Any, vocabularies: Sequence[tuple[str, str, str]], tokens: Mapping[str, LearnedToken]) -> None:
    """Enters tokens into the tokenizers and text encoders of a pipeline.

    Args:
        pipeline: a diffusers pipeline with `load_textual_inversion`.
        vocabularies: (name of its vectors, tokenizer, text encoder) of each, as the adapter names them.
        tokens: name in the pipeline → token; names that it has already are an error of diffusers.

    Raises:
        ValueError: a token was fitted for another text encoder.
    """
    import torch

    if not tokens:
        return
    for vocabulary, tokenizer, encoder in vocabularies:
        width = getattr(pipeline, encoder).get_input_embeddings().weight.shape[1]
        for token in tokens.values():
            if vocabulary not in token.vectors or token.vectors[vocabulary].shape[1] != width:
                raise ValueError(
                    f"the learned token {token.name} has no vectors of {width} numbers for {encoder}; fit it for this generator"
                )
        # the library resizes the table with random rows before it sets them; the state of the process's generator must not care
        with torch.random.fork_rng(devices=[]):
            pipeline.load_textual_inversion(
                [token.vectors[vocabulary] for token in tokens.values()],
                token=list(tokens),
                text_encoder=getattr(pipeline, encoder),
                tokenizer=getattr(pipeline, tokenizer),
            )
