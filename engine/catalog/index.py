"""Which images a split has of each class: read once, part by part, then kept beside the other caches."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from engine.catalog.corpus import Split, open_split
from engine.catalog.folder import Part
from engine.names import plain_name, unknown_name

READERS = 8
"""Parts that are read at once: over a network the wait is long and the work little."""


def cache_folder() -> Path:
    """Folder for what can be made again: `$IMAGEFOUNDRY_CACHE`, else `~/.cache/imagefoundry`."""
    return Path(os.environ.get("IMAGEFOUNDRY_CACHE", Path.home() / ".cache" / "imagefoundry"))


@dataclass(frozen=True)
class SplitIndex:
    """Keys and texts of a split's images, in the order of its parts."""

    keys: np.ndarray
    """`[N]` keys for `engine.catalog.corpus.read_images`."""
    texts: np.ndarray
    """`[N]` class indices, class names, multi-hot digits or captions, by `kind`."""
    fingerprint: str
    """Hash of the parts' names and sizes; a recipe names it as the corpus' revision."""
    kind: str = "index"
    """What the texts are: `index`, `name`, `multi_hot` or `caption`."""

    def labels(self, class_names: tuple[str, ...], location: str) -> np.ndarray:
        """Class indices `[N] int64`, or `[N, C] int64` of 0 and 1 where an image has several labels.

        Raises:
            ValueError: a label is no number or out of range, matches no class name, or has another number of classes.
        """
        if self.kind == "name":
            return self._by_name(class_names, location)
        if self.kind == "multi_hot":
            return self._multi_hot(class_names, location)
        try:
            labels: np.ndarray = self.texts.astype(np.int64)
        except ValueError:
            wrong = next(text for text in self.texts if not str(text).lstrip("-").isdigit())
            raise ValueError(
                f"{location}: label {str(wrong)!r} is not a class index; write a number into every .cls"
            ) from None
        if len(labels) and (labels.min() < 0 or labels.max() >= len(class_names)):
            wrong = int(labels.max() if labels.max() >= len(class_names) else labels.min())
            raise ValueError(
                f"{location}: class index {wrong} is out of range; classnames.txt has {len(class_names)} names (0 to {len(class_names) - 1})"
            )
        return labels

    def _by_name(self, class_names: tuple[str, ...], location: str) -> np.ndarray:
        known = {plain_name(name): number for number, name in enumerate(class_names)}
        found, inverse = np.unique(self.texts, return_inverse=True)
        for name in found:
            if plain_name(str(name)) not in known:
                raise ValueError(f"{location}: " + unknown_name("class", plain_name(str(name)), list(known)))
        return np.array([known[plain_name(str(name))] for name in found], np.int64)[inverse]

    def _multi_hot(self, class_names: tuple[str, ...], location: str) -> np.ndarray:
        for text in self.texts:
            if len(text) != len(class_names):
                raise ValueError(
                    f"{location}: an image has labels for {len(text)} classes, but there are {len(class_names)} class names; mend one of them"
                )
        digits: np.ndarray = self.texts.astype(f"S{len(class_names)}").view(np.uint8).reshape(len(self.texts), -1)
        return (digits - ord("0")).astype(np.int64)

    def by_class(self, class_names: tuple[str, ...], location: str) -> list[np.ndarray]:
        """Positions of the images of each class, `C` arrays; an image with several labels is in several.

        Raises:
            ValueError: as `labels`, or a class has no image.
        """
        labels = self.labels(class_names, location)
        if labels.ndim == 2:
            positions = [np.flatnonzero(column) for column in labels.T]
        else:
            order = np.argsort(labels, kind="stable")
            positions = np.split(order, np.searchsorted(labels[order], np.arange(1, len(class_names))))
        for name, found in zip(class_names, positions, strict=True):
            if not len(found):
                raise ValueError(
                    f"{location}: class {name!r} has no image; remove it from classnames.txt or add images"
                )
        return positions


def index_split(location: str, split: str, text_suffix: str = "cls") -> SplitIndex:
    """The index of a split; parts that have not changed (name, size, time) come from the cache, so a cut-off one goes on.

    `text_suffix`: the member beside a shard's image that is read, `cls`, `npy` or `txt`.

    Raises:
        ValueError: the split is missing or broken.
    """
    source = open_split(location, split)
    parts = source.parts()
    fingerprint = blake2b(json.dumps([[part.name, part.size] for part in parts]).encode(), digest_size=8).hexdigest()
    return _load_or_read(source, text_suffix, fingerprint, tuple(parts))


@lru_cache(maxsize=64)
def _load_or_read(source: Split, text_suffix: str, fingerprint: str, parts: tuple[Part, ...]) -> SplitIndex:
    with ThreadPoolExecutor(READERS) as pool:
        arrays = list(pool.map(lambda part: _part(source, text_suffix, part), parts))
    keys, texts = (np.concatenate([each[i] for each in arrays] or [np.empty(0, np.str_)]) for i in (0, 1))
    kind = {"txt": "caption", "npy": "multi_hot"}.get(text_suffix, "index") if source.kind == "index" else source.kind
    return SplitIndex(keys, texts, fingerprint, kind)


def _part(source: Split, text_suffix: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    stamp = blake2b(
        json.dumps([source.location, source.split, text_suffix, *part]).encode(), digest_size=16
    ).hexdigest()
    cached = cache_folder() / "index" / f"{stamp}.npz"
    if cached.exists():
        with np.load(cached, allow_pickle=False) as arrays:
            return arrays["keys"], arrays["texts"]
    samples = list(source.samples(part.name, text_suffix))
    keys = np.array([sample.key for sample in samples], dtype=np.str_)
    texts = np.array([sample.text for sample in samples], dtype=np.str_)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_name(f"{stamp}.{os.getpid()}.partial.npz")
    np.savez(partial, keys=keys, texts=texts)
    partial.replace(cached)
    return keys, texts
