"""Committed images of a plan: ids, labels, features and pixels as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.images import decode_image
from engine.recipe import embedding_column
from engine.sources import OriginalPlan, Plan
from engine.store import Workspace
from engine.store.vectors import to_matrix

if TYPE_CHECKING:
    from engine.evaluation.finetune import Pixels


@dataclass
class Images:
    """Committed images of a plan's first recipes."""

    ids: list[str]
    indices: np.ndarray
    """`[N]` index in the plan, ascending."""
    classes: np.ndarray
    """`[N]` int64, the class that each image was made or bought for."""
    labels: np.ndarray
    """`[N]` int64, or `[N, C]` of 0 and 1 where an image has several labels."""
    features: np.ndarray
    """`[N, D]` float32."""

    def first(self, num: int) -> "Images":
        """The images of the first `num` recipes."""
        return self.where(np.arange(len(self.ids)) < np.searchsorted(self.indices, num))

    def where(self, kept: np.ndarray) -> "Images":
        """The images selected by a mask `[N] bool`."""
        ids = [name for name, keep in zip(self.ids, kept, strict=True) if keep]
        return Images(ids, self.indices[kept], self.classes[kept], self.labels[kept], self.features[kept])


def load_images(workspace: Workspace, encoder: str, plan: Plan, num: int) -> Images:
    """Committed images of a plan's first `num` recipes, with their embeddings by an encoder."""
    recipes = [plan[index] for index in range(num)]
    ids = [recipe.id for recipe in recipes]
    column = embedding_column(encoder)
    table = workspace.fetch(ids, ["id", column])
    place = {name: number for number, name in enumerate(table.column("id").to_pylist())}
    # a recipe without an image (an error row) leaves a gap, so a class may have fewer than n images in its n-shot set
    indices = np.array([number for number, name in enumerate(ids) if name in place], np.int64)
    classes = np.array([recipes[number].class_index for number in indices], np.int64)
    vectors = to_matrix(table.column(column))
    return Images(
        ids=[ids[number] for number in indices],
        indices=indices,
        classes=classes,
        labels=plan.labels[indices] if isinstance(plan, OriginalPlan) else classes,
        features=vectors[np.array([place[ids[number]] for number in indices], np.int64)],
    )


def load_features(workspace: Workspace, column: str, ids: Sequence[str]) -> np.ndarray:
    """`[N, D]` values of a column that a stage has added, for committed images, in the order of `ids`."""
    return to_matrix(workspace.fetch(ids, [column]).column(column))


def stored_images(workspace: Workspace, ids: Sequence[str]) -> dict[str, bytes]:
    """Id → the encoded image."""
    table = workspace.fetch(list(dict.fromkeys(ids)), ["image"])
    return dict(zip(table.column("id").to_pylist(), table.column("image").to_pylist(), strict=True))


def pixels_of(encoded: Sequence[bytes]) -> "Pixels":
    """A function from rows of these encoded images to their pixels, decoded on request."""
    import torch

    def decode(rows: Sequence[int]) -> list[torch.Tensor]:
        images = [decode_image(encoded[row]) for row in rows]
        return [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]

    return decode
