"""Retrieval data that `imagefoundry fetch` has brought into the workspace: a plan over its rows (GenBench section 2.2)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.catalog import Dataset
from engine.recipe import RECIPE_SCHEMA, Recipe
from engine.store import Workspace
from engine.store.rows import quote

SCORE = "caption_similarity"
"""Column of the caption filter's score."""


@dataclass(frozen=True)
class FetchedPictures:
    """The fetched pictures of a data set."""

    corpus: str
    recipes: list[Recipe]
    """In no order."""
    rejected: int = 0
    """Pictures that are left out, since the caption filter's score is below the threshold."""


def fetched_pictures(
    workspace: Workspace, corpus: str, dataset: Dataset, threshold: float | None = None
) -> FetchedPictures:
    """The pictures of a corpus that were fetched for the classes of a data set.

    Args:
        workspace: holds them.
        corpus: name of the corpus.
        dataset: of these classes.
        threshold: least score of the caption filter (`imagefoundry fetch --filter`); None for all pictures.

    Raises:
        ValueError: there is none, or they have no score.
    """
    where = f"source = 'retrieval' AND corpus = {quote(corpus)} AND dataset = {quote(dataset.name)}"
    columns, again = RECIPE_SCHEMA.names, f"imagefoundry fetch --corpus {corpus} --datasets {dataset.name}"
    if threshold is not None:
        if SCORE not in workspace.image_schema().names:
            raise ValueError(f"the pictures of {workspace.uri} have no caption scores; run `{again} --filter` first")
        columns = [*columns, SCORE]
    rows = workspace.scan(columns, where).read_all().to_pylist()
    # a picture of a class that the data set no longer has, or that stood elsewhere in its list, is none of its own
    names = dict(enumerate(dataset.class_names))
    rows = [row for row in rows if names.get(row["class_index"]) == row["class_name"]]
    if not rows:
        raise ValueError(
            f"workspace {workspace.uri} has no pictures of corpus {corpus} for {dataset.name}; run `{again}`"
        )
    if threshold is not None and any(row[SCORE] is None for row in rows):
        raise ValueError(f"some pictures of {dataset.name} have no caption score; run `{again} --filter` first")
    kept = [row for row in rows if threshold is None or row[SCORE] >= threshold]
    if not kept:
        best = max(row[SCORE] for row in rows)
        raise ValueError(
            f"no picture of {dataset.name} reaches the threshold {threshold:g}; the best has {best:.2f}, give less"
        )
    return FetchedPictures(corpus, [Recipe.from_dict(row) for row in kept], len(rows) - len(kept))


class FetchedPlan:
    """The `shots` fetched pictures of each class whose captions are nearest to it, nearest first; shot by shot, as all plans.

    A picture serves one class, the nearest, also if several fetches assigned it to several. A class without further pictures is
    skipped, so use `num_recipes`.
    """

    source = "retrieval"
    split = "train"

    def __init__(
        self,
        dataset: Dataset,
        pictures: FetchedPictures,
        similarities: np.ndarray,
        shots: int,
        allow_fewer: bool = False,
    ):
        """`similarities`: `[N]` of each picture's caption to its class.

        Raises ValueError if a class has fewer pictures than shots, unless `allow_fewer`.
        """
        self.dataset, self.shots, self.corpus = dataset, shots, pictures.corpus
        self.num_classes = len(dataset.class_names)
        ids = [recipe.id for recipe in pictures.recipes]
        order = sorted(range(len(ids)), key=lambda at: (-similarities[at], ids[at]))
        by_url: dict[str, Recipe] = {}
        for at in order:
            by_url.setdefault(pictures.recipes[at].key, pictures.recipes[at])
        check_enough(dataset, replace(pictures, recipes=[*by_url.values()]), shots, allow_fewer)
        of_class: list[list[Recipe]] = [[] for _ in dataset.class_names]
        for recipe in by_url.values():
            of_class[recipe.class_index].append(recipe)
        rounds = [[found[shot] for found in of_class if shot < len(found)] for shot in range(shots)]
        self._recipes = [recipe for found in rounds for recipe in found]
        self._ends = np.cumsum([len(found) for found in rounds])

    def __len__(self) -> int:
        return len(self._recipes)

    def num_recipes(self, shots: int) -> int:
        """Number of recipes of the n-shot set, which is a prefix of the plan."""
        return int(self._ends[min(shots, self.shots) - 1]) if shots else 0

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._recipes[index]


def check_enough(dataset: Dataset, pictures: FetchedPictures, shots: int, allow_fewer: bool) -> None:
    """Raises ValueError if a class has fewer pictures than shots, unless that is allowed."""
    counts = Counter(recipe.class_index for recipe in pictures.recipes)
    fewest = min(range(len(dataset.class_names)), key=lambda number: counts[number])
    if counts[fewest] < shots and not allow_fewer:
        left_out = (
            f" ({pictures.rejected:,} pictures of all classes are below the threshold)" if pictures.rejected else ""
        )
        raise ValueError(
            f"{dataset.name} has {counts[fewest]} fetched pictures of class {dataset.class_names[fewest]!r}{left_out}, fewer than "
            f"{shots} shots; fetch more, ask for fewer shots, or allow fewer"
        )


def caption_similarities(recipes: Sequence[Recipe], captions: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """`[N]` cosine of each picture's caption, `captions` `[N, D]`, and its class, `queries` `[C, D]`."""
    classes = np.array([recipe.class_index for recipe in recipes], np.int64)
    found: np.ndarray = np.einsum("nd,nd->n", captions, queries[classes])
    return found
