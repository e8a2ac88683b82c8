"""The database of real images: the training images of data sets as rows of the image table, each picture once."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.catalog import Dataset
from engine.names import plain_name
from engine.recipe import Recipe, embedding_column
from engine.retriever.blocks import Block
from engine.retriever.exact_search import NO_CLASS
from engine.sources import OriginalPlan
from engine.store import IdSet, Workspace
from engine.store.checks import CONDITION_HINT
from engine.store.ids import id_bytes, id_names

ROWS_PER_BLOCK = 65_536


class DatabasePlan:
    """The training images `first … first + shots - 1` of each class, in the order of `OriginalPlan` with the same seed.

    So `first=0, shots=60` and `first=60` split a data set into halves that share no image; a class with fewer images
    contributes those it has.
    """

    def __init__(self, dataset: Dataset, first: int = 0, shots: int | None = None, seed: int = 0):
        """Raises ValueError if the data set has no training images, or none in this range."""
        most = OriginalPlan(dataset, None).shots
        stop = most if shots is None else min(most, first + shots)
        if not 0 <= first < stop:
            raise ValueError(
                f"{dataset.name} has up to {most} training images a class, and none between {first} and {stop}; "
                "take a smaller first, or more shots"
            )
        self.dataset = dataset
        self._plan = OriginalPlan(dataset, stop, seed, allow_fewer=True)
        self._indices = range(self._plan.num_recipes(first), self._plan.num_recipes(stop))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Recipe:
        return self._plan[self._indices[index]]

    def several_labels(self) -> dict[str, tuple[list[int], list[str]]]:
        """Id → class indices and class names of its images, where an image has several."""
        found = self._plan.several_labels()
        return {one: found[one] for one in self.ids()} if found else {}

    def ids(self) -> list[str]:
        """Ids of its images."""
        return [self[index].id for index in range(len(self))]


class Database:
    """Images that one encoder has embedded, selected by an SQL condition or by their ids, each picture once."""

    def __init__(self, workspace: Workspace, encoder: str, selection: str | Sequence[str]):
        """Keeps, of images with equal pixels, the one with the lowest id; see `duplicates`.

        Raises:
            ValueError: the workspace has no embeddings by this encoder; nothing is selected; the condition is not valid SQL.
        """
        self.encoder = encoder
        self.workspace = workspace
        self._column = embedding_column(encoder)
        if self._column not in workspace.embedding_columns():
            known = ", ".join(name.removeprefix("embedding_") for name in workspace.embedding_columns()) or "none"
            raise ValueError(
                f"workspace {workspace.uri} has no embeddings of {encoder} (it has: {known}); "
                "embed the database with this encoder, or name another"
            )
        condition = selection if isinstance(selection, str) else ""
        self._where = f"({condition}) AND {self._column} IS NOT NULL" if condition else f"{self._column} IS NOT NULL"
        among = None if isinstance(selection, str) else IdSet([list(selection)])
        found = duplicates(workspace, self._where, among)
        self.num_duplicates = int(pc.sum(pc.invert(found["kept"])).as_py() or 0)
        dropped = IdSet([found["id"].filter(pc.invert(found["kept"])).combine_chunks()] if found.num_rows else [])
        parts = []
        for batch in _scan(workspace, ["id"], self._where):
            ids = id_bytes(batch.column("id"))
            wanted = ~dropped.contains(ids)
            if among is not None:
                wanted &= among.contains(ids)
            parts.append(ids[wanted])
        self._ids = np.sort(np.concatenate(parts)) if parts else np.empty(0, "S16")
        if not len(self._ids):
            what = (
                f"no images for which {condition}"
                if condition
                else "none of these ids"
                if among is not None
                else "no images"
            )
            raise ValueError(f"the database is empty: {encoder} has embedded {what}; build it first")
        self.name = blake2b(self._ids.tobytes(), digest_size=16).hexdigest()
        """Hash of the ids: equal sets of images have equal names, and one more image gives another name."""

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> list[str]:
        """Ids of all its images, sorted."""
        return id_names(self._ids)

    def id_of(self, rows: np.ndarray) -> list[str]:
        """Ids of row numbers, with the numbering of `blocks`."""
        return id_names(self._ids[rows])

    def blocks(self, codes: dict[str, int]) -> Iterator[Block]:
        """Unit vectors with class codes, streamed from the table; an image's row is its position among the sorted ids.

        `codes`: plain class name → code; other classes get `NO_CLASS`.

        Raises:
            ValueError: an embedding is zero or not finite; the message names the image.
        """
        pending: list[Block] = []
        for batch in _scan(self.workspace, ["id", "class_name", self._column], self._where):
            ids = id_bytes(batch.column("id"))
            rows = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            wanted = self._ids[rows] == ids
            if not wanted.any():
                continue
            batch = batch.filter(pa.array(wanted))
            names = batch.column("class_name").dictionary_encode()
            coded = np.array([codes.get(plain_name(name), NO_CLASS) for name in names.dictionary.to_pylist()], np.int64)
            vectors = unit_vectors(batch.column(self._column), batch.column("id"))
            pending.append(Block(rows[wanted], vectors, coded[names.indices.to_numpy()]))
            if sum(len(block.rows) for block in pending) >= ROWS_PER_BLOCK:
                yield _joined(pending)
                pending = []
        if pending:
            yield _joined(pending)


def duplicates(workspace: Workspace, where: str | None = None, among: IdSet | None = None) -> pa.Table:
    """Images with the same pixels as another selected image: `content_hash`, `id`, `dataset`, `class_name`, `kept`.

    Equal images are adjacent; the one with the lowest id is `kept`. Near-duplicates are not detected.
    """
    hashes, ids = [], []
    for batch in _scan(workspace, ["id", "content_hash"], where):
        found = id_bytes(batch.column("id"))
        if among is not None:
            wanted = among.contains(found)
            batch, found = batch.filter(pa.array(wanted)), found[wanted]
        hashes.append(id_bytes(batch.column("content_hash")))
        ids.append(found)
    # 32 bytes per image, so that a hundred million fit in memory
    content = np.concatenate(hashes) if hashes else np.empty(0, "S16")
    named = np.concatenate(ids) if ids else np.empty(0, "S16")
    order = np.lexsort((named, content))
    content, named = content[order], named[order]
    same_as_last = np.concatenate([[False], content[1:] == content[:-1]]) if len(content) else np.zeros(0, bool)
    several = same_as_last | np.concatenate([same_as_last[1:], [False]]) if len(content) else same_as_last
    chosen = id_names(named[several])
    table = workspace.fetch(chosen, ["content_hash", "dataset", "class_name"])
    table = table.append_column("kept", pa.array(~same_as_last[several], pa.bool_()))
    return table.select(["content_hash", "id", "dataset", "class_name", "kept"])


def duplicate_counts(found: pa.Table) -> list[dict[str, object]]:
    """One row per combination of data sets that share pictures: pictures, images, and whether labels differ."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in found.to_pylist():
        groups.setdefault(row["content_hash"], []).append(row)
    counts: dict[tuple[str, ...], dict[str, object]] = {}
    for rows in groups.values():
        datasets = tuple(sorted({row["dataset"] for row in rows}))
        entry = counts.setdefault(
            datasets, {"datasets": " + ".join(datasets), "pictures": 0, "images": 0, "of several classes": 0}
        )
        several = len({plain_name(row["class_name"]) for row in rows}) > 1
        for name, number in (("pictures", 1), ("images", len(rows)), ("of several classes", int(several))):
            entry[name] = int(str(entry[name])) + number
    return [counts[key] for key in sorted(counts)]


def unit_vectors(column: pa.Array, ids: pa.Array) -> np.ndarray:
    """An embedding column as `[N, D]` float32 of unit norm. Raises ValueError, with the id, for a zero vector."""
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        name = ids[int(bad.argmax())].as_py()
        raise ValueError(f"the embedding of image {name} is zero, NaN or infinite; embed it again, or leave it out")
    return np.asarray(vectors / norms[:, None], np.float32)


def _scan(workspace: Workspace, columns: list[str], where: str | None) -> Iterator[pa.RecordBatch]:
    try:
        yield from workspace.scan(columns, where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot select images by {where!r}: {str(error).splitlines()[0]}; {CONDITION_HINT}"
        ) from error


def _joined(blocks: list[Block]) -> Block:
    classes = np.concatenate([block.classes for block in blocks if block.classes is not None])
    return Block(
        np.concatenate([block.rows for block in blocks]), np.concatenate([block.vectors for block in blocks]), classes
    )
