"""One small tokenizer for the three models: CLIP's own kind, with a vocabulary learnt from the world's captions."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.world.captions import SCENES, WEB_FORMS, prompt_captions
from engine.world.classes import nameless_species, taught_classes, templates

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CONTEXT_LENGTH = 32
_MERGES = 640


def training_captions(seed: int = 0) -> list[str]:
    """Captions the vocabulary is learnt from: prompts of every class in the training data, attribute captions, web phrases."""
    captions = [text for item in taught_classes() for text in prompt_captions(item.name, templates(item.dataset))]
    captions += [text for _, texts in nameless_species(seed, 300) for text in texts]
    blanks = dict.fromkeys("acsn", "")
    return captions + [form.format_map(blanks) for form in WEB_FORMS] + list(SCENES)


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2's and CLIP's vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))]


def learn_merges(captions: Iterable[str], num: int) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first; ties go by the alphabet, so that every run learns the same."""
    counts = Counter(word for caption in captions for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", caption.lower()))
    words = {word: (*word[:-1], word[-1] + "</w>") for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < num:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in pairwise(pieces):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, pieces in words.items():
            words[word] = _merge(pieces, best)
    return merges


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)


def build_tokenizer() -> "CLIPTokenizer":
    """A `CLIPTokenizer` of about 1,000 tokens whose end token has the highest id, as open_clip's pooling expects."""
    from transformers import CLIPTokenizer

    merges = learn_merges(training_captions(), _MERGES)
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    pairs: Any = merges  # transformers 5 takes pairs, and says strings
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, pad_token="!", model_max_length=CONTEXT_LENGTH)


def encode(tokenizer: "CLIPTokenizer", captions: Iterable[str]) -> dict[str, list[int]]:
    """Caption to ids, padded and cut to the context length."""
    texts = list(dict.fromkeys(captions))
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT_LENGTH).input_ids
    return dict(zip(texts, ids, strict=True))


def token_tensor(tokenizer: "CLIPTokenizer", captions: list[str]) -> torch.Tensor:
    """[N, 32] int64."""
    table = encode(tokenizer, captions)
    return torch.tensor([table[caption] for caption in captions])


def save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    """Write the tokenizer's files where `from_pretrained(folder)` finds them."""
    tokenizer.save_pretrained(folder)
