"""Retrieval of the real images nearest to a text (RealRAG Eq. 9), the same for all three retrievers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.catalog import Dataset
from engine.models import ImageEncoder
from engine.models.prompt_weights import read_weights
from engine.prompts import make_prompt
from engine.recipe import embedding_column
from engine.retriever.blocks import Block
from engine.retriever.exact_search import top_k
from engine.retriever.head import Head, HeadSpec
from engine.store import Workspace
from engine.store.rows import quote
from engine.store.vectors import to_matrix

ROWS_PER_FILL = 100_000
"""Embeddings per commit."""
_IN_DATABASE = "source = 'original' AND split = 'train'"


def plain_head(encoder: ImageEncoder) -> Head:
    """The identity head: Zero-RAG over images chosen by `Retriever.embed`."""
    return Head(HeadSpec(encoder=encoder.name, dimension=encoder.dimension, hidden=0, label="zero"))


def searchable(sources: Sequence[str] = (), datasets: Sequence[str] = (), class_names: Sequence[str] = ()) -> str:
    """SQL condition on `images`: training images of these sources, data sets and classes, where some are given."""
    conditions = ["split = 'train'"]
    for column, values in (("source", sources), ("dataset", datasets), ("class_name", class_names)):
        if values:
            conditions.append(f"{column} IN ({', '.join(quote(value) for value in values)})")
    return " AND ".join(conditions)


@dataclass(frozen=True)
class Retriever:
    """Zero-RAG without a head, Normal-RAG or RealRAG with one; the images are rows of the workspace's image table.

    The head's embeddings are a column of the table under the head's name. An image without them is never found,
    so the images given to `embed` are the database.
    """

    workspace: Workspace
    encoder: ImageEncoder
    head: Head | None = None
    max_distance: float | None = None
    """Images beyond this cosine distance, 0 to 2, are not returned: no reference is better than a bad one."""

    def __post_init__(self) -> None:
        if self.head is not None:
            self.head.check_encoder(self.encoder.name)

    @property
    def name(self) -> str:
        """Name of the embeddings that are searched."""
        return self.head.name if self.head else self.encoder.name

    def embed(self, ids: Sequence[str] | None = None, *, build_index: bool = True) -> int:
        """Embeds those of the images `ids` (default: all original training images) that lack the head's embedding.

        Returns their number. Needs the encoder's own embeddings in the table. Call it again for images added later.
        """
        if self.head is None:
            return 0
        name, known = self.head.name, embedding_column(self.encoder.name)
        self.workspace.ensure_encoder(name, self.encoder.dimension)
        if ids is None:
            condition = f"{_IN_DATABASE} AND {embedding_column(name)} IS NULL"
            missing = [
                row for batch in self.workspace.scan(["id"], condition) for row in batch.column("id").to_pylist()
            ]
        else:
            missing = self.workspace.ids_without(name, ids)
        for start in range(0, len(missing), ROWS_PER_FILL):
            found = self.workspace.fetch(missing[start : start + ROWS_PER_FILL], [known])
            found = found.filter(pc.is_valid(found.column(known)))
            vectors = to_matrix(found.column(known))
            self.workspace.fill_embeddings(name, found.column("id").to_pylist(), self.head.embed(vectors))
        if build_index and missing:
            self.workspace.build_indices(name)
        return len(missing)

    def search(
        self,
        texts: Sequence[str],
        k: int = 1,
        *,
        datasets: Sequence[str] = (),
        class_names: Sequence[str] = (),
        sources: Sequence[str] = ("original",),
    ) -> pa.Table:
        """The `k` nearest images of each text: `query_index`, `id`, `dataset`, `class_index`, `class_name`, `_distance`.

        Nearest first; fewer than `k` if the filters or `max_distance` leave fewer. Test images are never returned.

        Raises:
            ValueError: a text is empty, or no image is embedded by this retriever.
        """
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"query {number} has no text; say what the image should show")
        self._check_database()
        found = self.workspace.search_batch(
            self.encoder.encode_texts(list(texts)),
            self.name,
            k=k,
            where=searchable(sources, datasets, class_names),
            columns=["id", "dataset", "class_index", "class_name"],
        )
        if self.max_distance is not None:
            found = found.filter(pc.less_equal(found.column("_distance"), self.max_distance))
        return found.sort_by([("query_index", "ascending"), ("_distance", "ascending")])

    def references(self, dataset: Dataset, strategy: str, shots: int, k: int = 1, seed: int = 0) -> list[list[str]]:
        """The reference for each class and shot, `[C][shots]` ids, for `Materials.references`: the k nearest in turn.

        Each shot queries with its own prompt under `strategy`. A shot without any image has ``: text alone.
        """
        prompts = [
            [read_weights(make_prompt(strategy, dataset, number, shot, seed).text).text for shot in range(shots)]
            for number in range(len(dataset.class_names))
        ]
        asked = list(dict.fromkeys(text for texts in prompts for text in texts))
        found: dict[str, list[str]] = {text: [] for text in asked}
        hits = self.search(asked, k)
        for number, name in zip(hits.column("query_index").to_pylist(), hits.column("id").to_pylist(), strict=True):
            found[asked[number]].append(name)
        return [
            [found[text][shot % len(found[text])] if found[text] else "" for shot, text in enumerate(texts)]
            for texts in prompts
        ]

    def recall(self, texts: Sequence[str], k: int = 10) -> float:
        """Share of the exact `k` nearest images of these texts that `search` finds; 1 if the column has no index."""
        found = self.search(texts, k)
        column = embedding_column(self.name)
        ids: list[str] = []
        blocks = []
        for batch in self.workspace.scan(["id", column], f"{_IN_DATABASE} AND {column} IS NOT NULL"):
            vectors = to_matrix(batch.column(column))
            blocks.append(Block(np.arange(len(ids), len(ids) + len(vectors)), vectors))
            ids += batch.column("id").to_pylist()
        exact = top_k(self.encoder.encode_texts(list(texts)), blocks, k=min(k, len(ids))).rows
        pairs = set(zip(found.column("query_index").to_pylist(), found.column("id").to_pylist(), strict=True))
        hits = [(query, ids[row]) in pairs for query, rows in enumerate(exact) for row in rows]
        return sum(hits) / len(hits)

    def _check_database(self) -> None:
        column = embedding_column(self.name)
        if column not in self.workspace.embedding_columns() or not self.workspace.count(f"{column} IS NOT NULL"):
            raise ValueError(
                f"the database holds no image embedded by {self.name}; build it, and embed its images with this retriever"
            )


def precision_and_recall(
    hits: pa.Table, wanted: Sequence[tuple[str, int]], num_relevant: dict[tuple[str, int], int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """P@k and recall@k of each query, `[Q]` float64, from the rows of `Retriever.search` with at least k rows per query.

    `wanted`: (data set, class index) of each query. `num_relevant`: number of its relevant images in the database.
    """
    right = np.zeros(len(wanted))
    seen: np.ndarray = np.zeros(len(wanted), np.int64)
    columns = (hits.column(name).to_pylist() for name in ("query_index", "dataset", "class_index"))
    for query, dataset, class_index in zip(*columns, strict=True):
        if seen[query] < k:
            seen[query] += 1
            right[query] += (dataset, class_index) == wanted[query]
    return right / k, right / np.array([max(1, num_relevant.get(name, 0)) for name in wanted])
