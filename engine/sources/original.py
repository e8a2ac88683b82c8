"""Original data: the data set's own labelled images (GenBench section 2.2), train to learn from, test to score on."""

import numpy as np

from engine.catalog import Dataset
from engine.recipe import Recipe


class OriginalPlan:
    """`shots` images of each class of a split, drawn in an order that depends on the seed alone.

    For the test split give `shots=None`: every image, in the split's order.
    """

    def __init__(self, dataset: Dataset, shots: int | None, seed: int = 0, split: str = "train"):
        """Raises ValueError when a class has fewer images than shots, or the split is missing or broken."""
        index = dataset.index(split)
        positions = index.by_class(dataset.class_names, dataset.location)
        self.dataset = dataset
        self.split = split
        self.num_classes = len(dataset.class_names)
        self._revision = index.fingerprint
        if shots is None:
            order = np.arange(len(index.keys))
            self._classes = index.texts.astype(np.int64)
            self.shots = max(len(found) for found in positions)
        else:
            fewest = min(range(self.num_classes), key=lambda number: len(positions[number]))
            if len(positions[fewest]) < shots:
                raise ValueError(
                    f"{dataset.name} has {len(positions[fewest])} {split} images of class "
                    f"{dataset.class_names[fewest]!r}, fewer than {shots} shots; ask for fewer"
                )
            drawn = [
                np.random.default_rng([seed, number]).permutation(found)[:shots]
                for number, found in enumerate(positions)
            ]
            order = np.stack(drawn, axis=1).ravel()
            self._classes = np.tile(np.arange(self.num_classes), shots)
            self.shots = shots
        self._keys = [str(key) for key in index.keys[order]]

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Recipe:
        if not 0 <= index < len(self):
            raise IndexError(index)
        class_index = int(self._classes[index])
        return Recipe(
            source="original",
            dataset=self.dataset.name,
            class_index=class_index,
            class_name=self.dataset.class_names[class_index],
            split=self.split,
            revision=self._revision,
            corpus=self.dataset.name,
            key=self._keys[index],
        )
