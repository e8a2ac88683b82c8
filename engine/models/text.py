"""Language models: keywords to sentences (T5), images to captions (BLIP-2), similarity of texts (BERT).

Each is loaded through transformers by a name of `text.toml`, a Hub id (`owner/name` or `owner/name@revision`) or a folder,
from safetensors only. Batches are padded to one size and texts to one length, so that the result of an item does not depend on
the rest of its batch.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.models.loading_errors import loading_errors
from engine.models.precision import native_dtype
from engine.models.weights import folder_revision
from engine.names import unknown_name

if TYPE_CHECKING:
    import torch

TOP_K = 50
"""Tokens that the next token is sampled from: transformers' default at the time of the paper."""
MAX_KEYWORD_TOKENS = 32
MAX_SENTENCE_TOKENS = 32
MAX_TEXT_TOKENS = 64

_T = TypeVar("_T")
_R = TypeVar("_R")


@cache
def _models() -> dict[str, dict[str, dict[str, str]]]:
    return tomllib.loads(files("engine.models").joinpath("text.toml").read_text("utf-8"))


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: Any
    revision: str
    device: str


def _load(kind: str, name: str, device: str, model_class: str, processor_class: str) -> _Loaded:
    """Raises ValueError if the name is unknown and neither a Hub id nor a folder, or if the weights cannot be loaded."""
    entry = _models()[kind].get(name, {})
    source, _, revision = entry.get("source", name).partition("@")
    local = Path(source).is_dir()
    if not entry and not local and "/" not in source:
        raise ValueError(unknown_name(f"{kind} model", name, list(_models()[kind]), "or give a Hub id or a folder"))
    found = folder_revision(Path(source)) if local else ""

    import torch
    import transformers

    where: dict[str, Any] = {"local_files_only": local} | ({"revision": revision} if revision else {})
    dtype = getattr(torch, native_dtype(entry.get("dtype", "float32"), device))
    with loading_errors(f"{kind} model", name):
        processor = getattr(transformers, processor_class).from_pretrained(source, **where)
        model = getattr(transformers, model_class).from_pretrained(source, use_safetensors=True, dtype=dtype, **where)
    model.to(device).eval().requires_grad_(False)
    return _Loaded(model, processor, found or getattr(model.config, "_commit_hash", None) or revision or "main", device)


class _TextModel:
    """A loaded model and its number of items per batch."""

    def __init__(self, loaded: _Loaded, batch_size: int):
        self._loaded = loaded
        self.batch_size = batch_size

    @property
    def revision(self) -> str:
        """Hash of the folder's weights, or the Hub's commit."""
        return self._loaded.revision


class SentenceWriter(_TextModel):
    """Expands keywords to sentences, each from its own seed (GenBench section 2.3, Category Enhancement)."""

    def write(self, keywords: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """One sentence per (keyword, seed), sampled from the `TOP_K` likeliest tokens at temperature 1.

        The input is `{keyword} </s>`, as in He et al. (2210.07574).
        """
        return _in_batches(self._write, list(zip(keywords, seeds, strict=True)), self.batch_size)

    def _write(self, items: Sequence[tuple[str, int]]) -> list[str]:
        import torch
        from transformers import LogitsProcessorList

        tokenizer, device = self._loaded.processor, self._loaded.device
        inputs = tokenizer(
            [f"{keyword} </s>" for keyword, _ in items],
            padding="max_length",
            max_length=MAX_KEYWORD_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(device)
        generators = [torch.Generator().manual_seed(seed) for _, seed in items]
        with torch.inference_mode():
            tokens = self._loaded.model.generate(
                **inputs,
                max_new_tokens=MAX_SENTENCE_TOKENS,
                do_sample=False,
                num_beams=1,
                logits_processor=LogitsProcessorList([_sample_alone(generators)]),
            )
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _sample_alone(generators: "Sequence[torch.Generator]") -> Any:
    """A logits processor whose largest logit is a sample from the top `TOP_K`, with one random generator per row.

    Gumbel's trick: the argmax of `logits - log(exponential noise)` is a sample from their softmax. transformers' own sampling
    has one generator per batch, so that a row would depend on the others.
    """
    import torch
    from transformers import LogitsProcessor

    class SampleAlone(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=each) for each in generators])
            least = scores.topk(min(TOP_K, scores.shape[1]), dim=1).values[:, -1:]
            noisy = scores.float() - noise.to(scores.device).log()
            return noisy.masked_fill(scores < least, float("-inf"))

    return SampleAlone()


class Captioner(_TextModel):
    """Captions images (GenBench section 4 captions retrieved images with BLIP-2)."""

    def caption(self, images: "Sequence[torch.Tensor]") -> list[str]:
        """One caption per uint8 image `[3, H, W]`, decoded greedily."""
        return _in_batches(self._caption, images, self.batch_size)

    def _caption(self, images: "Sequence[torch.Tensor]") -> list[str]:
        import torch

        pixels = self._loaded.processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self._loaded.model.generate(
                pixels.to(self._loaded.device, self._loaded.model.dtype),
                max_new_tokens=MAX_SENTENCE_TOKENS,
                do_sample=False,
                num_beams=1,
            )
        return [text.strip() for text in self._loaded.processor.batch_decode(tokens, skip_special_tokens=True)]


class TextSimilarity(_TextModel):
    """Similarity of texts by BERT (GenBench section 4 compares captions with class names).

    The paper does not name the output of BERT that it compares. This is the mean of the last layer's token states without
    padding, since the [CLS] state of a BERT without sentence training says little about the similarity of sentences.
    """

    def embed(self, texts: Sequence[str]) -> "torch.Tensor":
        """Embeddings `[N, D]` float32, unit norm."""
        import torch

        rows = _in_batches(self._embed, texts, self.batch_size)
        return torch.stack(rows) if rows else torch.zeros(0, self._loaded.model.config.hidden_size)

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> "torch.Tensor":
        """Cosines `[N, M]` of each of `texts` with each of `others`."""
        return self.embed(texts) @ self.embed(others).T

    def _embed(self, texts: "Sequence[str]") -> "list[torch.Tensor]":
        import torch

        inputs = self._loaded.processor(
            list(texts), padding="max_length", max_length=MAX_TEXT_TOKENS, truncation=True, return_tensors="pt"
        ).to(self._loaded.device)
        with torch.inference_mode():
            states = self._loaded.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1)
        return list(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).cpu())


def _in_batches(function: Callable[[Sequence[_T]], list[_R]], items: Sequence[_T], batch_size: int) -> list[_R]:
    """The results of `function` for all batches; the last batch is padded with its last item."""
    results: list[_R] = []
    for start in range(0, len(items), batch_size):
        batch = list(items[start : start + batch_size])
        results += function(batch + batch[-1:] * (batch_size - len(batch)))[: len(batch)]
    return results


def load_sentence_writer(name: str = "t5-common-gen", *, device: str = "cpu", batch_size: int = 64) -> SentenceWriter:
    """Loads a keyword-to-sentence model by name, Hub id or folder.

    Raises:
        ValueError: unknown name; weights that are pickled, missing or do not fit.
    """
    return SentenceWriter(_load("sentences", name, device, "AutoModelForSeq2SeqLM", "AutoTokenizer"), batch_size)


def load_captioner(name: str = "blip2", *, device: str = "cpu", batch_size: int = 8) -> Captioner:
    """Loads a captioner by name, Hub id or folder. Raises ValueError as `load_sentence_writer` does."""
    return Captioner(_load("captions", name, device, "Blip2ForConditionalGeneration", "Blip2Processor"), batch_size)


def load_text_similarity(name: str = "bert", *, device: str = "cpu", batch_size: int = 64) -> TextSimilarity:
    """Loads a text similarity model by name, Hub id or folder. Raises ValueError as `load_sentence_writer` does."""
    return TextSimilarity(_load("similarity", name, device, "AutoModel", "AutoTokenizer"), batch_size)
