"""Sentences of Category Enhancement: written once per data set before it is planned, then kept in the cache folder."""

import json
import os
from collections.abc import Sequence
from hashlib import blake2b

from engine.cache import cache_folder
from engine.catalog import Dataset
from engine.models.text import SentenceWriter, load_sentence_writer

NUM_SENTENCES = 200
"""Different sentences wanted per class."""
TRIES = 2
"""Sentences sampled at most for each one wanted; after that fewer are accepted."""


def load_sentences(
    dataset: Dataset,
    writer: str = "t5-common-gen",
    *,
    num_sentences: int = NUM_SENTENCES,
    seed: int = 0,
    device: str = "cpu",
) -> list[list[str]]:
    """Up to `num_sentences` different sentences for each class, `C` lists, by the model of this name, hub id or folder.

    Sentence number n of a class depends on (model, class name, n, seed) alone. The table is kept as JSON in the cache
    folder under the hash of the model's revision, the class names, `num_sentences` and `seed`, so a changed model never
    reads the sentences of the old one. The revision of a hub id is its commit when the model is loaded.

    Raises:
        ValueError: the model is unknown or cannot be loaded.
    """
    model = load_sentence_writer(writer, device=device)
    key = json.dumps([model.revision, dataset.class_names, num_sentences, seed, TRIES])
    cached = cache_folder() / "sentences" / f"{blake2b(key.encode(), digest_size=16).hexdigest()}.json"
    if cached.exists():
        table: list[list[str]] = json.loads(cached.read_text("utf-8"))
        return table
    table = [write_sentences(model, name, num_sentences, seed) for name in dataset.class_names]
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(table, ensure_ascii=False), "utf-8")
    partial.replace(cached)
    return table


def write_sentences(model: SentenceWriter, keyword: str, num_sentences: int, seed: int) -> list[str]:
    """The first `num_sentences` different sentences of a keyword's samples 0, 1, …; fewer if `TRIES` times as many repeat.

    If the model writes nothing but blanks, the keyword itself is the only sentence.
    """
    distinct: dict[str, None] = {}
    tried = 0
    while len(distinct) < num_sentences and tried < TRIES * num_sentences:
        numbers = range(tried, min(tried + max(model.batch_size, num_sentences), TRIES * num_sentences))
        for sentence in model.write([keyword] * len(numbers), _seeds(keyword, numbers, seed)):
            if sentence:
                distinct[sentence] = None
        tried = numbers.stop
    return list(distinct)[:num_sentences] or [keyword]


def _seeds(keyword: str, numbers: Sequence[int], seed: int) -> list[int]:
    texts = [f"{seed}/{keyword}/{number}" for number in numbers]
    return [int.from_bytes(blake2b(t.encode(), digest_size=8, person=b"sentence").digest(), "big") >> 1 for t in texts]
