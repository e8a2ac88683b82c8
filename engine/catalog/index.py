"""Which images a split has of each class: read once from the shards, then kept beside the other caches."""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from engine.catalog.webdataset import WebDataset


def cache_folder() -> Path:
    """Folder for what can be made again: `$IMAGEFOUNDRY_CACHE`, else `~/.cache/imagefoundry`."""
    return Path(os.environ.get("IMAGEFOUNDRY_CACHE", Path.home() / ".cache" / "imagefoundry"))


@dataclass(frozen=True)
class SplitIndex:
    """Keys and texts of a split's images, in shard order."""

    keys: np.ndarray
    """`[N]` keys for `WebDataset.read_images`."""
    texts: np.ndarray
    """`[N]` label digits (`.cls`) or captions (`.txt`)."""
    fingerprint: str
    """Hash of the shards' names and sizes; a recipe names it as the corpus' revision."""

    def by_class(self, class_names: tuple[str, ...], location: str) -> list[np.ndarray]:
        """Positions of the images of each class, `C` arrays.

        Raises:
            ValueError: a label is no number or out of range, or a class has no image.
        """
        try:
            labels = self.texts.astype(np.int64)
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
        order = np.argsort(labels, kind="stable")
        positions = np.split(order, np.searchsorted(labels[order], np.arange(1, len(class_names))))
        for name, found in zip(class_names, positions, strict=True):
            if not len(found):
                raise ValueError(
                    f"{location}: class {name!r} has no image; remove it from classnames.txt or add images"
                )
        return positions


def index_split(location: str, split: str, text_suffix: str = "cls") -> SplitIndex:
    """The index of a split, from the cache if the shards have not changed (names, sizes, times).

    Raises:
        ValueError: as `WebDataset.samples` does.
    """
    dataset = WebDataset(location, split)
    filesystem, root = dataset._filesystem
    state = []
    for name in dataset.shard_names():
        info = filesystem.info(f"{root}/{name}")
        state.append(
            [name, info.get("size"), str(info.get("mtime") or info.get("LastModified") or info.get("blob_id") or "")]
        )
    fingerprint = blake2b(json.dumps([[name, size] for name, size, _ in state]).encode(), digest_size=8).hexdigest()
    stamp = blake2b(json.dumps([location, split, text_suffix, state]).encode(), digest_size=16).hexdigest()
    return _load_or_read(dataset, text_suffix, fingerprint, stamp)


@lru_cache(maxsize=64)
def _load_or_read(dataset: WebDataset, text_suffix: str, fingerprint: str, stamp: str) -> SplitIndex:
    cached = cache_folder() / "index" / f"{stamp}.npz"
    if cached.exists():
        with np.load(cached, allow_pickle=False) as arrays:
            return SplitIndex(arrays["keys"], arrays["texts"], fingerprint)
    samples = list(dataset.samples(text_suffix))
    keys = np.array([sample.key for sample in samples], dtype=np.str_)
    texts = np.array([sample.text for sample in samples], dtype=np.str_)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_name(f"{stamp}.{os.getpid()}.partial.npz")
    np.savez(partial, keys=keys, texts=texts)
    partial.replace(cached)
    return SplitIndex(keys, texts, fingerprint)
