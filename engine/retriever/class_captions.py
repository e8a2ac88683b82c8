"""Text-to-text retrieval from a corpus for all classes at once (GenBench section 2.2), and the mean text similarity (3.3)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.retriever.blocks import Block
from engine.retriever.exact_search import TopK
from engine.retriever.many_nearest import many_nearest
from engine.store import Workspace
from engine.store.captions import caption_vectors, captions_at, corpora

Search = Callable[[np.ndarray, int], TopK]
"""Searches a corpus: queries `[C, D]` float32 and k → positions of captions and inner products."""


def corpus_encoder(workspace: Workspace, corpus: str, encoder: str) -> None:
    """Raises ValueError if a workspace has no such corpus, or one that another encoder embedded."""
    there = corpora(workspace)
    if corpus not in there:
        found = ", ".join(there) or "none"
        raise ValueError(
            f"workspace {workspace.uri} has no corpus {corpus!r} (there is {found}); build it with `imagefoundry build-corpus`"
        )
    if there[corpus] != encoder:
        raise ValueError(
            f"corpus {corpus} was embedded by {there[corpus]} and the classes are by {encoder}; use the same encoder"
        )


def corpus_blocks(
    workspace: Workspace, corpus: str, encoder: str, fragments: Sequence[int] | None = None
) -> Iterator[Block]:
    """A corpus as blocks of a search; rows are positions in the table of captions."""
    for positions, vectors in caption_vectors(workspace, corpus, encoder, fragments):
        yield Block(positions, vectors)


def local_search(workspace: Workspace, corpus: str, encoder: str, device: str = "cpu") -> Search:
    """An exact search in this process. Raises ValueError as `corpus_encoder` does."""
    corpus_encoder(workspace, corpus, encoder)
    return lambda queries, k: many_nearest(
        queries, lambda: corpus_blocks(workspace, corpus, encoder), k=k, device=device
    )


def mean_queries(class_texts: np.ndarray) -> np.ndarray:
    """`[C, D]` float32 whose products with a caption are its mean similarity over a class's templates `[C, T, D]`."""
    return np.ascontiguousarray(class_texts.mean(axis=1), np.float32)


def corpus_similarity(search: Search, class_texts: np.ndarray, k: int) -> np.ndarray:
    """MTS of each class, `[C] float64`: mean cosine of its name (the mean of its templates, `[C, T, D]`) and its k nearest captions.

    Raises ValueError if the corpus has fewer than k captions.
    """
    queries = mean_queries(class_texts)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores = search(queries, k).scores
    if not np.isfinite(scores).all():
        raise ValueError(f"the corpus has fewer than {k} captions; average over fewer")
    return scores.astype(np.float64).mean(axis=1)


@dataclass(frozen=True)
class ClassPictures:
    """The pictures of one class, most similar first."""

    urls: list[str]
    captions: list[str]
    similarities: list[float]
    """Mean similarity of each caption over the class's templates."""


def class_pictures(search: Search, workspace: Workspace, class_texts: np.ndarray, k: int) -> list[ClassPictures]:
    """The `k` pictures of each class whose captions are nearest to its templates `[C, T, D]`; a picture (url) serves one class.

    Pairs of class and picture are taken in the order of their similarity, so that a picture goes to the class that it is nearest
    to among those that still want one. A class whose list runs out, because others took its pictures, gets a longer one. Fewer
    than `k` only where the corpus has no more.
    """
    queries = mean_queries(class_texts)
    length, num_classes = k + max(8, k // 4), len(queries)
    while True:
        found = search(queries, length)
        known = found.rows >= 0
        rows = captions_at(workspace, found.rows[known], ["url", "caption"])
        urls, url_of = np.unique(rows["url"].to_numpy(zero_copy_only=False), return_inverse=True)
        picture = np.full(found.rows.shape, -1, np.int64)
        picture[known] = url_of
        taken = assign(picture, found.scores, len(urls), k)
        if all(len(taken[number]) == k or not known[number].all() for number in range(num_classes)):
            break
        length *= 2
    place = np.full(found.rows.shape, -1, np.int64)
    place[known] = np.arange(int(known.sum()))
    captions = rows["caption"].to_pylist()
    return [
        ClassPictures(
            [str(urls[picture[number, at]]) for at in taken[number]],
            [captions[place[number, at]] for at in taken[number]],
            [float(found.scores[number, at]) for at in taken[number]],
        )
        for number in range(num_classes)
    ]


def assign(pictures: np.ndarray, scores: np.ndarray, num_pictures: int, k: int) -> list[list[int]]:
    """Per class, the columns of the pictures it gets, best first: at most `k`, and none that another class or column got.

    Args:
        pictures: `[C, L]` number of the picture, -1 for none.
        scores: `[C, L]`, falling along each row.
        num_pictures: pictures there are.
        k: pictures per class.
    """
    classes, columns = (pictures >= 0).nonzero()
    order = np.lexsort((columns, classes, -scores[classes, columns]))
    is_free = np.ones(num_pictures, bool)
    taken: list[list[int]] = [[] for _ in pictures]
    for number, column in zip(classes[order].tolist(), columns[order].tolist(), strict=True):
        picture = pictures[number, column]
        if is_free[picture] and len(taken[number]) < k:
            is_free[picture] = False
            taken[number].append(column)
    return taken
