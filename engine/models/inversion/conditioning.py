"""Prompts with tokens that are being learned: the frozen text encoders, with rows of their embedding tables that have a gradient."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from engine.models.generator import DiffusionGenerator

_PLACE = "<|learned{}|>"


class Vocabulary:
    """One tokenizer and its frozen text encoder; `C` categories with `K` rows each stand after its own rows."""

    def __init__(self, name: str, tokenizer: Any, encoder: Any, vectors: int):
        self.name = name
        self.encoder = encoder
        self.vectors = vectors
        self._tokenizer = copy.deepcopy(tokenizer)
        self._size = encoder.get_input_embeddings().weight.shape[0]
        self._places = [_PLACE.format(number) for number in range(vectors)]
        self._tokenizer.add_tokens(self._places)
        self._ids = self._tokenizer.convert_tokens_to_ids(self._places)
        self._frozen = encoder.get_input_embeddings().weight.detach().float()

    def start(self, noise: float, generators: Sequence["torch.Generator"]) -> "torch.Tensor":
        """`[C, K, D]` float32: the mean of all rows, with noise of this share of their spread, from each category's generator."""
        import torch

        mean, spread = self._frozen.mean(0), self._frozen.std(0).mean()
        shape = self.vectors, self._frozen.shape[1]
        rows = [torch.randn(shape, generator=one).to(mean.device) for one in generators]
        return torch.stack([mean + noise * spread * row for row in rows])

    def tokenize(self, templates: Sequence[str]) -> "torch.Tensor":
        """`[T, L]` int64: templates with the places of the rows; a learned row's id is the size of the table plus its number.

        Raises ValueError if a template and its token do not fit into the text encoder.
        """
        import torch

        length = self._tokenizer.model_max_length
        found = []
        for template in templates:
            text = template.replace("{c}", " ".join(self._places))
            ids = self._tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
            if any(one not in ids for one in self._ids):
                raise ValueError(f"the template {template!r} is too long for {length} tokens; shorten it")
            found.append([self._size + self._ids.index(one) if one in self._ids else one for one in ids])
        return torch.tensor(found)

    def tokenize_nothing(self) -> "torch.Tensor":
        """`[1, L]` int64: no caption."""
        import torch

        length = self._tokenizer.model_max_length
        ids = self._tokenizer([""], padding="max_length", max_length=length).input_ids
        return torch.tensor(ids, device=self.device)

    def embed(self, ids: "torch.Tensor", rows: "torch.Tensor | None") -> Any:
        """Output of the text encoder for `ids` `[C, L]`, category c reading its own `rows[c]`; None for no rows."""
        import torch

        table = self._frozen
        if rows is not None:
            shift = torch.arange(len(ids), device=ids.device)[:, None] * self.vectors
            ids = torch.where(ids >= self._size, ids + shift, ids)
            table = torch.cat([table, rows.flatten(0, 1)])
        with _Words(self.encoder, table):
            return self.encoder(ids, output_hidden_states=True)

    @property
    def device(self) -> Any:
        """Device of the text encoder."""
        return self._frozen.device


class _Words:
    """Replaces the word embeddings of a text encoder by a table for the duration of a block."""

    def __init__(self, encoder: Any, table: "torch.Tensor"):
        self._encoder, self._table = encoder, table

    def __enter__(self) -> None:
        import torch
        from torch.nn.functional import embedding

        table, self._before = self._table, self._encoder.get_input_embeddings()

        class Table(torch.nn.Module):
            def forward(self, ids: torch.Tensor) -> torch.Tensor:
                return embedding(ids, table)

        self._encoder.set_input_embeddings(Table())

    def __exit__(self, *error: object) -> None:
        self._encoder.set_input_embeddings(self._before)


class Prompts:
    """Conditions of the denoiser from templates around learned tokens, of Stable Diffusion (one text encoder) or XL (two)."""

    def __init__(self, generator: "DiffusionGenerator", vectors: int):
        pipeline = generator.adapter.pipeline
        self.vocabularies = [
            Vocabulary(name, getattr(pipeline, tokenizer), getattr(pipeline, encoder).float(), vectors)
            for name, tokenizer, encoder in generator.adapter.vocabularies
        ]
        self._is_xl = len(self.vocabularies) > 1
        self._spec, self._pipeline = generator.spec, pipeline

    def tokenize(self, templates: Sequence[str]) -> "list[torch.Tensor]":
        """`[T, L]` per vocabulary."""
        return [each.tokenize(templates).to(each.device) for each in self.vocabularies]

    def conditions(
        self, ids: "Sequence[torch.Tensor]", rows: "Sequence[torch.Tensor] | None", repeats: int
    ) -> dict[str, Any]:
        """Arguments of the denoiser for `C x repeats` samples, from ids `[C, L]` per vocabulary."""
        import torch

        hidden: list[Any] = []
        pooled: Any = None
        for number, vocabulary in enumerate(self.vocabularies):
            output = vocabulary.embed(ids[number], None if rows is None else rows[number])
            # XL reads the last layer but one of both, and the pooled text of the second
            hidden.append(output.hidden_states[-2] if self._is_xl else output[0])
            pooled = output[0]
        words = torch.cat(hidden, dim=-1).repeat_interleave(repeats, 0)
        dtype = self._pipeline.unet.dtype
        if not self._is_xl:
            return {"encoder_hidden_states": words.to(dtype)}
        size = (self._spec.height, self._spec.width)
        times = torch.tensor([[*size, 0, 0, *size]], device=words.device, dtype=dtype).expand(len(words), 6)
        texts = pooled.repeat_interleave(repeats, 0).to(dtype)
        return {
            "encoder_hidden_states": words.to(dtype),
            "added_cond_kwargs": {"text_embeds": texts, "time_ids": times},
        }

    def nothing(self, repeats: int) -> dict[str, Any]:
        """Arguments of the denoiser for samples without a caption."""
        return self.conditions([each.tokenize_nothing() for each in self.vocabularies], None, repeats)
