"""Training data of a retriever: texts, database images and mined negatives, all as embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Batch:
    """Rows of one training batch."""

    texts: np.ndarray
    """`[B]` row numbers of the texts."""
    images: np.ndarray
    """`[B]` row numbers of the images that are their positives."""
    negatives: np.ndarray
    """`[B, K]` row numbers of the images that are their reflective negatives; -1 for none."""

    def part(self, rank: int, world_size: int) -> "Batch":
        """The rows of one of `world_size` workers; each worker gets equally many."""
        size = len(self.texts) // world_size
        mine = slice(rank * size, (rank + 1) * size)
        return Batch(self.texts[mine], self.images[mine], self.negatives[mine])


@dataclass(frozen=True, eq=False)
class RetrieverData:
    """Texts and the images of the database's mining half. Class numbers are unique across all data sets."""

    encoder: str
    """Name of the embeddings."""
    text_features: np.ndarray
    """`[T, D]` float32, unit norm."""
    text_class: np.ndarray
    """`[T]` int64."""
    image_features: np.ndarray
    """`[M, D]` float32, unit norm."""
    image_class: np.ndarray
    """`[M]` int64."""
    negatives: np.ndarray
    """`[T, K]` int64, row numbers of the images, hardest first (RealRAG Eq. 4); -1 for none."""
    validation: np.ndarray
    """`[M]` bool: images that choose the epoch and are not trained on (`choose_validation`)."""
    generated: np.ndarray | None = None
    """`[T, D]` float32: embedding of each text's generated image, zeros if it failed; for `TrainingConfig.remine`."""

    def __post_init__(self) -> None:
        num_texts, num_images = len(self.text_features), len(self.image_features)
        if not num_texts or not num_images:
            raise ValueError("there are no texts or no images to learn from; fill the database first")
        if self.text_features.shape[1:] != self.image_features.shape[1:] or self.text_features.ndim != 2:
            raise ValueError(
                f"texts have shape {self.text_features.shape} and images {self.image_features.shape}; "
                "embed both with the same encoder"
            )
        for name, rows, expected in (
            ("text_class", self.text_class, num_texts),
            ("image_class", self.image_class, num_images),
            ("negatives", self.negatives, num_texts),
            ("validation", self.validation, num_images),
        ):
            if len(rows) != expected:
                raise ValueError(f"{name} has {len(rows)} rows; give one for each of the {expected} texts or images")
        if self.negatives.ndim != 2 or (self.negatives.size and self.negatives.max() >= num_images):
            raise ValueError("negatives name images that are not there; mine them from these images")
        if self.generated is not None and self.generated.shape != self.text_features.shape:
            raise ValueError(
                f"generated images have shape {self.generated.shape} and texts {self.text_features.shape}; "
                "give one embedding a text"
            )
        without = np.setdiff1d(self.text_class, self.image_class[~self.validation])
        if len(without):
            raise ValueError(f"class {without[0]} has texts and no image to learn from; add an image or drop the class")
        if len(np.unique(self.text_class)) < 2:
            raise ValueError("all texts are of one class, so there is nothing to tell apart; give two classes at least")

    @cached_property
    def _by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Training images sorted by class, and for each text the start and the size of its class."""
        rows = np.flatnonzero(~self.validation)
        rows = rows[np.argsort(self.image_class[rows], kind="stable")]
        classes = self.image_class[rows]
        starts: np.ndarray = np.searchsorted(classes, self.text_class, "left")
        return rows, starts, np.searchsorted(classes, self.text_class, "right") - starts

    def training_negatives(self, num: int, negatives: np.ndarray | None = None) -> np.ndarray:
        """`[T, num]`: each text's hardest `negatives` (`[T, K]`; the data's if None) that are no validation images; -1
        where there are fewer."""
        negatives = self.negatives if negatives is None else negatives
        padded: np.ndarray = np.append(self.validation, True)  # row -1
        usable = ~padded[negatives]
        order = np.argsort(~usable, axis=1, kind="stable")[:, :num]
        found = np.where(np.take_along_axis(usable, order, axis=1), np.take_along_axis(negatives, order, axis=1), -1)
        return np.pad(found, ((0, 0), (0, num - found.shape[1])), constant_values=-1)

    def batches(
        self,
        batch_size: int,
        num_negatives: int,
        seed: int,
        epoch: int,
        multiple: int = 1,
        negatives: np.ndarray | None = None,
    ) -> list[Batch]:
        """The batches of an epoch: each text at most once, with a newly sampled image of its class.

        Texts that do not fill a batch are left out. A pure function of its arguments, so a resumed run sees the same
        batches as an uninterrupted one.
        `multiple`: the batch size is a multiple of it if there are fewer texts than `batch_size`. `negatives`: used
        instead of the data's.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self.text_class))
        rows, starts, counts = self._by_class
        images = rows[starts + (random.random(len(starts)) * counts).astype(np.int64)]
        negatives = self.training_negatives(num_negatives, negatives)
        size = min(batch_size, len(order) // multiple * multiple)
        return [
            Batch(chosen, images[chosen], negatives[chosen])
            for chosen in (order[start : start + size] for start in range(0, len(order) - size + 1, size))
        ]

    def without_classes(self, classes: np.ndarray) -> "RetrieverData":
        """The data without the texts and images of these class numbers; negatives of these classes become -1.

        Raises ValueError if fewer than two classes are left.
        """
        texts = np.flatnonzero(~np.isin(self.text_class, classes))
        images = np.flatnonzero(~np.isin(self.image_class, classes))
        place = np.full(len(self.image_class) + 1, -1)  # the last entry is that of row -1
        place[images] = np.arange(len(images))
        return RetrieverData(
            self.encoder,
            self.text_features[texts],
            self.text_class[texts],
            self.image_features[images],
            self.image_class[images],
            place[self.negatives[texts]],
            self.validation[images],
            None if self.generated is None else self.generated[texts],
        )

    def to_tables(self) -> tuple[pa.Table, pa.Table]:
        """Texts and images as Arrow tables, one numbered row each, so that their order may be lost on the way."""
        texts = {
            "class": self.text_class,
            "vector": as_lists(self.text_features),
            "negatives": as_lists(self.negatives),
        }
        if self.generated is not None:
            texts["generated"] = as_lists(self.generated)
        images = {"class": self.image_class, "vector": as_lists(self.image_features), "validation": self.validation}
        return pa.table({"row": np.arange(len(self.text_class)), **texts}), pa.table(
            {"row": np.arange(len(self.image_class)), **images}
        )

    @classmethod
    def from_tables(cls, encoder: str, texts: Iterable[pa.Table], images: Iterable[pa.Table]) -> "RetrieverData":
        """The data from the tables of `to_tables`, in parts and any order."""
        text, image = (pa.concat_tables(parts).sort_by("row").combine_chunks() for parts in (texts, images))
        return cls(
            encoder,
            as_matrix(text.column("vector")),
            text.column("class").to_numpy(),
            as_matrix(image.column("vector")),
            image.column("class").to_numpy(),
            as_matrix(text.column("negatives")),
            image.column("validation").to_numpy(),
            as_matrix(text.column("generated")) if "generated" in text.column_names else None,
        )


def choose_validation(image_class: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """`[M]` bool: this share of each class's images `[M]`, rounded down, so a class of one image keeps it for training.

    Raises ValueError if the share is outside 0 <= share < 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation share {share} leaves nothing to learn from; give 0 or more, and less than 1")
    chosen: np.ndarray = np.zeros(len(image_class), bool)
    random = np.random.default_rng(seed)
    for number in np.unique(image_class):
        rows = random.permutation(np.flatnonzero(image_class == number))
        chosen[rows[: int(share * len(rows))]] = True
    return chosen


def as_lists(matrix: np.ndarray) -> pa.Array:
    """A matrix as a column of lists of one length, which may be 0."""
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]) if matrix.shape[1] else pa.array([[]] * len(matrix))


def as_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """The matrix of a column of `as_lists`."""
    values: np.ndarray = pc.list_flatten(column).to_numpy()
    return values.reshape(len(column), -1) if len(values) else np.zeros((len(column), 0), np.int64)
