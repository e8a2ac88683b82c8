"""Search in the workspace's images on behalf of a caller: by plain CLIP or a trained head, each loaded at its first use."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.images import decode_image
from engine.models import ImageEncoder
from engine.recipe import embedding_column
from engine.retriever.head import Head
from engine.retriever.heads import load_kept_head
from engine.retriever.retriever import Retriever, searchable
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.orders import Hit, Search
from engine.store import Workspace
from engine.store.vectors import to_matrix

SHOWN = ("id", "source", "dataset", "class_name", "prompt")


class ImageDatabase:
    """The images that can be found, and the embeddings that new images get so that they are found too."""

    def __init__(self, workspace: Workspace, encoder: ImageEncoder):
        self.workspace, self.encoder = workspace, encoder
        self._heads: dict[str, Head] = {}
        self._version = -1
        self._known: dict[str, Head | None] = {}
        self._known_for: tuple[int, tuple[str, ...]] = (-1, ())
        """Version of `heads` and embedding columns that `_known` was read for."""

    def search(self, search: Search) -> list[Hit]:
        """The nearest images that the caller may see, nearest first.

        Raises:
            ApiError: 400 if the retriever is unknown, or no image is embedded by it.
        """
        return [Hit(row["id"], row.pop("_distance"), row) for row in self._nearest(search, SHOWN)]

    def retrieve(self, search: Search) -> dict[str, np.ndarray]:
        """Id → uint8 `[H, W, 3]` of the same images, in one look at the table. Raises ApiError as `search` does."""
        return {row["id"]: decode_image(row["image"]) for row in self._nearest(search, ("id", "image"))}

    def _nearest(self, search: Search, columns: Sequence[str]) -> list[dict[str, Any]]:
        retriever = self.retriever(search.retriever)
        column = embedding_column(retriever.name)
        vector = self._vector(search, retriever)
        where = f"{search.caller.sees} AND {searchable(search.sources, search.datasets, search.class_names)}"
        if column not in self.workspace.embedding_columns():
            raise _empty(search.retriever)
        table = self.workspace.search(vector, retriever.name, k=search.k, where=where, columns=columns)
        found: list[dict[str, Any]] = table.to_pylist()
        if not found and not self.workspace.count(f"{column} IS NOT NULL"):
            raise _empty(search.retriever)
        return found

    def retriever(self, name: str) -> Retriever:
        """The retriever `zero`, or the one of a trained head by its name or label. Raises ApiError (400) if there is none."""
        if name == "zero":
            return Retriever(self.workspace, self.encoder)
        self._forget_old_heads()
        if name not in self._heads:
            try:
                head = load_kept_head(self.workspace, name)
                head.check_encoder(self.encoder.name)
            except ValueError as error:
                raise ApiError(400, str(error), code="unknown_retriever", param="retriever") from error
            self._heads[name] = head
        return Retriever(self.workspace, self.encoder, self._heads[name])

    def embeddings(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Embedding column → `[N, D] float32`: the encoder's `vectors`, and those of every trained head in the table."""
        return {name: vectors if head is None else head.embed(vectors) for name, head in self._columns().items()}

    def _columns(self) -> dict[str, Head | None]:
        """Embedding column → its head, None for the encoder's own; of all heads that the table has embeddings of."""
        known = self.workspace.embedding_columns()
        state = self.workspace.dataset("heads").version, tuple(known)
        if state != self._known_for:
            columns: dict[str, Head | None] = {embedding_column(self.encoder.name): None}
            heads = self.workspace.dataset("heads").to_table(columns=["name", "encoder"], filter="NOT kept")
            for row in heads.to_pylist():
                column = embedding_column(row["name"])
                if column in known and column not in columns and row["encoder"] == self.encoder.name:
                    columns[column] = self.retriever(row["name"]).head
            self._known, self._known_for = columns, state
        return self._known

    def references(self, caller: Caller, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Id → uint8 `[H, W, 3]`. Raises ApiError (400) if there is no such image, or the caller may not see it."""
        wanted = sorted(set(ids))
        found = self.workspace.fetch(wanted, ["image", "owner"]).to_pylist()
        seen = {row["id"]: row["image"] for row in found if row["owner"] in (None, caller.key_id)}
        for one in wanted:
            if one not in seen:
                raise ApiError(400, f"there is no image {one[:64]!r}", code="image_not_found", param="references")
        return {one: decode_image(data) for one, data in seen.items()}

    def _vector(self, search: Search, retriever: Retriever) -> np.ndarray:
        if search.image_id:
            known = embedding_column(self.encoder.name)
            rows = self.workspace.fetch([search.image_id], [known, "owner"])
            if not rows.num_rows or rows["owner"][0].as_py() not in (None, search.caller.key_id):
                message = f"there is no image {search.image_id[:64]!r}"
                raise ApiError(404, message, code="image_not_found", param="image_id")
            if rows[known].null_count:
                raise ApiError(400, "the image has no embedding; choose another", param="image_id")
            vectors = to_matrix(rows[known])
        elif search.image:
            vectors = self.encode_images([decode_image(search.image)])
        else:
            vector: np.ndarray = self.encoder.encode_texts([search.text])[0]
            return vector
        embedded: np.ndarray = (retriever.head.embed(vectors) if retriever.head else vectors)[0]
        return embedded

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """`[N, D]` float32 of uint8 `[H, W, 3]` arrays."""
        import torch

        tensors = [torch.from_numpy(np.moveaxis(image, 2, 0).copy()) for image in images]
        vectors: np.ndarray = self.encoder.encode_images(tensors).cpu().numpy()
        return vectors

    def _forget_old_heads(self) -> None:
        version = self.workspace.dataset("heads").version
        if version != self._version:
            self._heads, self._version = {}, version


def _empty(retriever: str) -> ApiError:
    message = (
        f"the database holds no image embedded for retriever {retriever}; add images (POST /v1/images), "
        "or build one with `imagefoundry build-database`"
    )
    return ApiError(400, message, code="empty_database", param="retriever")
