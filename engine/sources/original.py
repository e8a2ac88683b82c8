"""Original data: the data set's own labelled images (GenBench section 2.2), train to learn from, test to score on."""

import numpy as np

from engine.catalog import Dataset
from engine.recipe import Recipe


class OriginalPlan:
    """`shots` images of each class of a split, sampled in an order that depends on the seed alone.

    For the test split give `shots=None`: every image, in the split's order. An image with several labels may be sampled
    for each of them.
    """

    source = "original"

    def __init__(
        self,
        dataset: Dataset,
        shots: int | None,
        seed: int = 0,
        split: str = "train",
        allow_fewer: bool = False,
    ):
        """Raises ValueError if the split is missing or broken, or a class has fewer images than shots.

        With `allow_fewer`, such a class contributes all it has.
        """
        index = dataset.index(split)
        labels = index.labels(dataset.class_names, dataset.location)
        positions = index.by_class(dataset.class_names, dataset.location)
        self.dataset = dataset
        self.split = split
        self.num_classes = len(dataset.class_names)
        self._revision = index.fingerprint
        self.account = index.account
        """Items of the split: used, ignored and refused."""
        if shots is None:
            order = np.arange(len(index.keys))
            self._classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
            self.shots = max(len(found) for found in positions)
        else:
            fewest = min(range(self.num_classes), key=lambda number: len(positions[number]))
            if len(positions[fewest]) < shots and not allow_fewer:
                raise ValueError(
                    f"{dataset.name} has {len(positions[fewest])} {split} images of class "
                    f"{dataset.class_names[fewest]!r}, fewer than {shots} shots; ask for fewer, or allow fewer shots"
                )
            drawn = np.full((shots, self.num_classes), -1)
            for number, found in enumerate(positions):
                chosen = np.random.default_rng([seed, number]).permutation(found)[:shots]
                drawn[: len(chosen), number] = chosen
            there = drawn >= 0
            order = drawn[there]
            self._classes = np.nonzero(there)[1]
            self._ends = there.sum(axis=1).cumsum()
            self.shots = shots
        self.labels = labels[order]
        """`[len(plan)]` class indices, or `[len(plan), C]` of 0 and 1 where an image has several labels."""
        self._keys = [str(key) for key in index.keys[order]]
        self.corpora = {dataset.name: dataset.location}
        """Corpus → folder or URL to read it from."""

    def several_labels(self) -> dict[str, tuple[list[int], list[str]]]:
        """Id → class indices and class names of each image; empty if images have one label, which is the recipe's class."""
        if self.labels.ndim == 1:
            return {}
        names = self.dataset.class_names
        shown = [np.flatnonzero(row).tolist() for row in self.labels]
        return {self[index].id: (found, [names[one] for one in found]) for index, found in enumerate(shown)}

    def num_recipes(self, shots: int) -> int:
        """Number of recipes of the n-shot set, which is a prefix of the plan."""
        return int(self._ends[min(shots, self.shots) - 1]) if shots else 0

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        class_index = int(self._classes[index])
        shown = self.labels.ndim == 1 or self.labels[index].any()
        return Recipe(
            source="original",
            dataset=self.dataset.name,
            class_index=class_index,
            class_name=self.dataset.class_names[class_index] if shown else "",
            split=self.split,
            revision=self._revision,
            corpus=self.dataset.name,
            key=self._keys[index],
        )
