"""Captions of web pictures: one clean form of each, and one key for those that differ in nothing but their looks."""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

MAX_CHARACTERS = 500
"""Longer captions are cut: no text encoder here reads more than 77 tokens."""

_MARKUP = re.compile(r"<[^<>]{1,200}>")
_BLANKS = re.compile(r"[\s\u200b\u200c\u200d\u2060\ufeff]+")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SEPARATORS = re.compile(r"[\W_]+")


def normal_caption(text: str) -> str:
    """The caption as it is stored and embedded: NFKC, entities and tags resolved, one blank between words; empty if none is left."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = _MARKUP.sub(" ", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _BLANKS.sub(" ", _CONTROL.sub("", text)).strip()[:MAX_CHARACTERS].rstrip()


def near_duplicate_key(caption: str) -> str:
    """What near-duplicates share: the words in their order, without case, punctuation and immediate repetitions.

    Digits stay, since `Boeing 737-400` and `Boeing 747` are different things. A caption without a word or digit is its own key.
    """
    words = _SEPARATORS.sub(" ", caption.casefold()).split()
    kept = [word for place, word in enumerate(words) if not place or word != words[place - 1]]
    return " ".join(kept) or caption


def caption_keys(captions: Sequence[str]) -> np.ndarray:
    """`[N] int64`: 64-bit hash of each caption's `near_duplicate_key`, the same on every machine."""
    digests = b"".join(blake2b(near_duplicate_key(text).encode(), digest_size=8).digest() for text in captions)
    return np.frombuffer(digests, "<i8").astype(np.int64)


class KeySet:
    """A growing set of int64 keys, 8 bytes each: a few sorted arrays, merged when they are of one size."""

    def __init__(self, batches: Iterable[np.ndarray] = ()) -> None:
        self._parts: list[np.ndarray] = []
        for batch in batches:
            self.add(batch)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, keys: np.ndarray) -> None:
        """Adds keys `[N] int64`, none of which is in the set yet; those given twice count once."""
        part = np.unique(keys)
        while self._parts and len(self._parts[-1]) < 2 * len(part):
            part = np.sort(np.concatenate([self._parts.pop(), part]), kind="stable")  # merges two sorted runs
        if len(part):
            self._parts.append(part)

    def claim(self, keys: np.ndarray) -> np.ndarray:
        """`[N] bool`: which of `keys` are new, the first of equal ones alone; they are in the set from now on."""
        new = np.zeros(len(keys), bool)
        new[np.unique(keys, return_index=True)[1]] = True
        for part in self._parts:
            places = np.minimum(np.searchsorted(part, keys), len(part) - 1)
            new &= part[places] != keys
        self.add(keys[new])
        return new
