"""Retrieval data: images of a captioned web pool whose captions are nearest to the class (GenBench section 2.2).

Text to text: the query is the class name in the data set's templates, as in the paper; images are not used.
"""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.cache import cached_arrays
from engine.catalog import Dataset
from engine.catalog.account import Account
from engine.catalog.index import SplitIndex, account_of, index_split
from engine.catalog.worlds import resolve_location
from engine.models.encoder import ImageEncoder
from engine.recipe import Recipe


@dataclass(frozen=True)
class CaptionedPool:
    """A pool of captioned images and the embeddings of its captions."""

    name: str
    location: str
    index: SplitIndex
    captions: np.ndarray
    """`[U, D]` float32, unit norm: one row per distinct caption."""
    caption_of: np.ndarray
    """`[N]` row of `captions` for each image."""
    seconds: float
    """Seconds that embedding the captions took when it was done."""


def check_pool(location: str, shots: int) -> None:
    """Checks the pool without an encoder.

    Raises:
        ValueError: the pool is missing, broken, empty or smaller than `shots`.
    """
    num_images = len(_pool_index(resolve_location(location)).keys)
    if num_images < shots:
        raise ValueError(f"the pool {location} has {num_images} images, fewer than {shots} shots; ask for fewer")


def read_pool(location: str, split: str = "train") -> SplitIndex:
    """Keys and captions of the pool at a resolved location. Raises ValueError if it is missing or broken."""
    return index_split(location, split, text_suffix="txt")


def pool_account(location: str) -> dict[str, Account]:
    """Account of the pool's items under `train`, and of all other files under the empty name. Raises ValueError as `load_pool`."""
    location = resolve_location(location)
    return account_of(location, ("train",), lambda split: read_pool(location, split))


def _pool_index(location: str) -> SplitIndex:
    index = read_pool(location)
    if not len(index.keys):
        raise ValueError(f"the pool {location} has no captioned image; add shards of .webp and .txt members")
    return index


def load_pool(location: str, encoder: ImageEncoder) -> CaptionedPool:
    """The pool at a folder or URL (or `world:mini-web`), its captions embedded once and kept in the cache.

    Raises:
        ValueError: the pool is missing, broken or empty.
    """
    name = location.rstrip("/").rsplit("/", 1)[-1].removeprefix("world:")
    location = resolve_location(location)
    index = _pool_index(location)
    distinct, caption_of = np.unique(index.texts, return_inverse=True)
    texts = [str(text) for text in distinct]

    captions, seconds = caption_embeddings(encoder, texts)
    return CaptionedPool(name, location, index, captions, caption_of, seconds)


def caption_embeddings(encoder: ImageEncoder, texts: list[str]) -> tuple[np.ndarray, float]:
    """`[N, D]` float32, unit norm: embeddings of captions, kept in the cache; and the seconds that they took when they were made."""

    def embed() -> dict[str, np.ndarray | float]:
        started = time.perf_counter()
        captions = encoder.encode_texts(texts)
        return {"captions": captions, "seconds": time.perf_counter() - started}

    arrays = cached_arrays("captions", _embedded(encoder, texts), embed, edition=1)
    return arrays["captions"], float(arrays["seconds"])


class RetrievalPlan:
    """The `shots` images of the pool whose captions are nearest to each class, nearest first."""

    source = "retrieval"
    split = "train"

    def __init__(self, dataset: Dataset, pool: CaptionedPool, class_texts: np.ndarray, shots: int):
        """`class_texts`: `[C, D]` float32 unit norm, the class names in their templates (`class_text_features`).

        Raises ValueError if the pool has fewer images than shots.
        """
        check_pool(pool.location, shots)
        started = time.perf_counter()
        self.dataset = dataset
        self.num_classes = len(dataset.class_names)
        self.shots = shots
        self.corpus = pool.name
        self.corpora = {pool.name: pool.location}
        """Corpus → folder or URL to read it from."""
        self._revision = pool.index.fingerprint
        self.account = pool.index.account
        """Items of the pool: used, ignored and refused."""
        keys, captions = [], []
        for text in class_texts:
            similarity = (pool.captions @ text)[pool.caption_of]
            nearest = _largest(similarity, shots)
            keys.append(pool.index.keys[nearest])
            captions.append(pool.index.texts[nearest])
        self._keys = [str(key) for key in np.stack(keys, axis=1).ravel()]
        self._captions = [str(text) for text in np.stack(captions, axis=1).ravel()]
        seconds = time.perf_counter() - started
        self.search_seconds_per_image = seconds / max(1, len(self)) + pool.seconds / len(pool.index.keys)

    def __len__(self) -> int:
        return self.shots * self.num_classes

    def num_recipes(self, shots: int) -> int:
        """Number of recipes of the n-shot set, which is a prefix of the plan."""
        return min(shots, self.shots) * self.num_classes

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        class_index = index % self.num_classes
        return Recipe(
            source="retrieval",
            dataset=self.dataset.name,
            class_index=class_index,
            class_name=self.dataset.class_names[class_index],
            prompt=self._captions[index],
            revision=self._revision,
            corpus=self.corpus,
            key=self._keys[index],
        )


def _largest(values: np.ndarray, num: int) -> np.ndarray:
    """`[num]` rows of the largest of `values` `[N]`, largest first, ties in order of the row."""
    least = np.partition(values, len(values) - num)[len(values) - num]
    found = np.flatnonzero(values >= least)
    order: np.ndarray = np.argsort(-values[found], kind="stable")[:num]
    return found[order]


def class_text_features(encoder: ImageEncoder, dataset: Dataset) -> np.ndarray:
    """`[C, T, D]` float32, unit norm: every class name in every template of the data set; embedded once and kept in the cache."""
    return _class_texts(encoder, dataset.class_names, dataset.templates)["features"]


def class_queries(encoder: ImageEncoder, dataset: Dataset) -> np.ndarray:
    """`[C, D]` float32, unit norm: `class_embeddings` of `class_text_features`, from the same entry of the cache."""
    return _class_texts(encoder, dataset.class_names, dataset.templates)["queries"]


@cache
def _class_texts(
    encoder: ImageEncoder, class_names: tuple[str, ...], templates: tuple[str, ...]
) -> dict[str, np.ndarray]:
    texts = [template.replace("{c}", name) for name in class_names for template in templates]

    def embed() -> dict[str, np.ndarray]:
        from engine.evaluation import class_embeddings

        features = encoder.encode_texts(texts).reshape(len(class_names), len(templates), -1)
        return {"features": features, "queries": class_embeddings(features).numpy()}

    return cached_arrays("class_texts", _embedded(encoder, texts) | {"templates": len(templates)}, embed, edition=1)


def _embedded(encoder: ImageEncoder, texts: list[str]) -> dict[str, object]:
    """Everything that embeddings of texts depend on; on a GPU the encoder computes in half precision."""
    return {"encoder": encoder.name, "device": encoder.device, "texts": texts}
