"""Mean text similarity of classes and the captions of a corpus (GenBench section 3.3), searched on the cluster and kept in the cache."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from engine.cache import cached_arrays
from engine.retriever.class_captions import Search, corpus_encoder, corpus_similarity, local_search
from engine.retriever.ray_captions import cluster_search
from engine.store import Workspace
from engine.store.captions import corpus_parts

if TYPE_CHECKING:
    from engine.dataflow.run import Run


class CorpusSimilarity:
    """Mean text similarities by one corpus; each is searched once, until the corpus grows."""

    def __init__(self, workspace: Workspace, corpus: str, encoder: str, k: int):
        """Raises ValueError if there is no such corpus, another encoder embedded it, or it has fewer than `k` captions."""
        corpus_encoder(workspace, corpus, encoder)
        parts = corpus_parts(workspace, corpus)
        self._workspace, self._corpus, self._encoder, self._k = workspace, corpus, encoder, k
        self._parts = sorted(parts["part"].to_pylist())
        if (num := sum(parts["used"].to_pylist())) < k:
            raise ValueError(f"corpus {corpus} has {num:,} captions, fewer than {k} nearest ones; average over fewer")

    def on_cluster(self, run: "Run", class_texts: list[np.ndarray]) -> None:
        """Searches for classes of data sets, each `[C, T, D]`, with workers of the run; those that were searched before are left out."""
        search = cluster_search(run, self._corpus, self._encoder)
        for texts in class_texts:
            self._of(texts, lambda: search)

    def of(self, class_texts: np.ndarray) -> np.ndarray:
        """`[C] float64` of classes `[C, T, D]`; searched in this process if the cache has lost them."""
        return self._of(class_texts, lambda: local_search(self._workspace, self._corpus, self._encoder))

    def _of(self, class_texts: np.ndarray, search: Callable[[], Search]) -> np.ndarray:
        of = {
            "corpus": self._corpus,
            "encoder": self._encoder,
            "parts": self._parts,
            "k": self._k,
            "texts": class_texts,
        }
        found = cached_arrays(
            "corpus_similarity", of, lambda: {"mts": corpus_similarity(search(), class_texts, self._k)}, edition=1
        )
        return found["mts"]
