"""Stages: named operations on images that add columns to their rows, or reject them; embedding is one of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.models import ImageEncoder, load_encoder
from engine.models.faults import DeviceFault, is_device_fault
from engine.models.gpu_decoding import SUFFIX, Decode
from engine.models.preprocessing import Preprocessing
from engine.recipe import RECIPE_SCHEMA, Recipe, embedding_column
from engine.store.vectors import from_matrix, to_matrix

Views = Mapping[Preprocessing | None, Any]
"""A function from a stage's preprocessing (None for the original size) to the images at that size."""

_RECIPE_FIELDS = set(RECIPE_SCHEMA.names)


class Stage(Protocol):
    """One operation on images; picklable; each worker `load`s it once.

    In a fill it runs in the worker that made the images, on pixels that are still on the device, before the rows are
    written. `Run.apply` runs the same stage over committed images, in a pool of its own.
    """

    @property
    def name(self) -> str:
        """Name in the ledger and in errors."""
        ...

    @property
    def columns(self) -> pa.Schema:
        """Columns that it adds to a row; empty for a stage that only rejects."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that it reads besides `id`: recipe fields, or columns that earlier stages of the fill have added."""
        ...

    @property
    def num_gpus(self) -> float:
        """Share of a GPU per worker if the cluster has GPUs."""
        ...

    @property
    def needs_gpu(self) -> bool:
        """Whether it waits for a GPU instead of running on processors."""
        ...

    @property
    def rejects(self) -> bool:
        """Whether an image with a `reason` is rejected for good instead of counted as failed.

        A rejected image is a row of `errors`. It is not tried again and does not count as a failure.
        """
        ...

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Size at which it takes images; None for their original size. Known once it is loaded."""
        ...

    def load(self, device: str) -> None:
        """Loads its model onto a torch device."""

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        """Processes some images.

        Args:
            block: `id` and `inputs`, one row per image.
            pixels: the images, uint8: a list of `[3, H, W]`, or a batch `[N, 3, h, w]`.

        Returns:
            `columns`, one row per image in the same order; and, where images fail or are rejected, a string column
            `reason` that is null for the others.

        Raises:
            DeviceFault: the device is unusable from now on.
        """
        ...


@dataclass
class Embed:
    """Stage that adds one embedding column: the embeddings of an image encoder, float32, unit norm."""

    encoder: str
    """Name of the embeddings, revision included."""
    source: str
    """Source from which workers load the encoder."""
    dimension: int
    load_encoder: Callable[..., ImageEncoder] = load_encoder
    """Loads the encoder from a source and a device."""
    num_gpus: float = 0.25
    needs_gpu: bool = False
    rejects: bool = False
    inputs: tuple[str, ...] = ()
    name: str = "embed"
    decode: Decode = "cpu"
    """Where `Run.apply` decodes the images; in a fill, they are decoded where they are read."""
    _loaded: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        encoder: ImageEncoder,
        load_encoder: Callable[..., ImageEncoder] = load_encoder,
        decode: Decode = "cpu",
    ) -> "Embed":
        """The stage of an encoder; each worker loads the encoder itself.

        With `decode` "gpu", its embeddings have a column of their own, since the pixels differ a little.
        """
        name = encoder.name + (SUFFIX if decode == "gpu" else "")
        return cls(name, encoder.source, encoder.dimension, load_encoder, decode=decode, _loaded=encoder)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    @property
    def columns(self) -> pa.Schema:
        """The embedding column."""
        return pa.schema([pa.field(embedding_column(self.encoder), pa.list_(pa.float32(), self.dimension))])

    @property
    def preprocessing(self) -> Preprocessing:
        """The encoder's preprocessing."""
        found: Preprocessing = self._loaded.preprocessing
        return found

    def load(self, device: str) -> None:
        """Loads the encoder."""
        self._loaded = self.load_encoder(self.source, device=device)

    def __call__(self, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        """Embeds images; gives a reason for an embedding that is not finite."""
        vectors = np.ascontiguousarray(self._loaded.encode_images(pixels).cpu().numpy(), np.float32)
        is_finite = np.isfinite(vectors).all(1)
        reasons = pa.array([None if good else "the embedding is not finite" for good in is_finite], pa.string())
        return pa.RecordBatch.from_arrays(
            [from_matrix(vectors), reasons], schema=self.columns.append(pa.field("reason", pa.string()))
        )


@dataclass
class Staged:
    """Results of all stages for some images."""

    kept: np.ndarray
    """`[K]` int64, positions of the images without a reason."""
    columns: dict[str, pa.Array]
    """Column → values of the kept images."""
    reasons: dict[int, tuple["Stage", str]]
    """Position of each other image → the stage that gave a reason, and the reason."""
    seconds: dict[str, np.ndarray]
    """Stage name → `[N]` busy seconds per image."""


class Stages:
    """Several stages, loaded on one device."""

    def __init__(self, stages: Sequence[Stage], device: str):
        self._stages, self._device = stages, device
        for stage in stages:
            try:
                stage.load(device)
            except RuntimeError as error:
                if is_device_fault(error):
                    raise DeviceFault(device, str(error)) from None
                raise

    @property
    def preprocessings(self) -> list[Preprocessing | None]:
        """The distinct sizes that the stages take."""
        return list(dict.fromkeys(stage.preprocessing for stage in self._stages))

    def run(self, recipes: Sequence[Recipe], views: Views) -> Staged:
        """Runs the stages one after the other on images of these recipes; see `run_on`."""
        inputs = {name for stage in self._stages for name in stage.inputs} & _RECIPE_FIELDS
        rows = {name: [getattr(recipe, name) for recipe in recipes] for name in sorted(inputs)}
        return self.run_on([recipe.id for recipe in recipes], views, pa.table(rows) if rows else None)

    def run_on(self, ids: Sequence[str], views: Views, rows: pa.Table | None = None) -> Staged:
        """Runs the stages one after the other; an image with a reason reaches no later stage.

        Args:
            ids: `[N]`.
            views: `[N]` images for each of `preprocessings`.
            rows: `[N]` rows with the stages' inputs.

        Raises:
            ValueError: a stage reads a column that no row has, or returns rows that do not match its input.
        """
        kept = np.arange(len(ids))
        names = pa.array(ids, pa.string())
        added: dict[str, pa.Array] = {}
        reasons: dict[int, tuple[Stage, str]] = {}
        seconds: dict[str, np.ndarray] = {}
        for stage in self._stages:
            spent = seconds.setdefault(stage.name, np.zeros(len(ids)))
            if not len(kept):
                added |= {column.name: pa.array([], column.type) for column in stage.columns}
                continue
            started = time.perf_counter()
            block = _block(stage, names.take(pa.array(kept)), kept, rows, added)
            found = self._call(stage, block, _pixels(views, stage, kept))
            spent[kept] += (time.perf_counter() - started) / len(kept)
            added |= {name: found.column(name) for name in stage.columns.names}
            if "reason" in found.schema.names and found.column("reason").null_count < len(kept):
                given = found.column("reason")
                pairs = zip(kept, given.to_pylist(), strict=True)
                reasons |= {int(at): (stage, reason) for at, reason in pairs if reason is not None}
                good = pc.is_null(given)
                kept = kept[good.to_numpy(zero_copy_only=False)]
                added = {name: column.filter(good) for name, column in added.items()}
        return Staged(kept, added, reasons, seconds)

    def _call(self, stage: Stage, block: pa.RecordBatch, pixels: Any) -> pa.RecordBatch:
        try:
            found = stage(block, pixels)
        except RuntimeError as error:
            if is_device_fault(error):
                raise DeviceFault(self._device, str(error)) from None
            raise
        if found.num_rows != block.num_rows or not set(stage.columns.names) <= set(found.schema.names):
            raise ValueError(
                f"stage {stage.name} returned {found.num_rows} rows of {found.schema.names} for {block.num_rows} images; "
                f"return one row per image with the columns {stage.columns.names}"
            )
        return found


def check_stages(stages: Sequence[Stage]) -> None:
    """Raises ValueError if two stages add the same column."""
    names = [name for stage in stages for name in stage.columns.names]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two stages add the column {name}; give each column one stage")


def _block(
    stage: Stage, ids: pa.Array, kept: np.ndarray, rows: pa.Table | None, added: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    columns = {"id": ids}
    for name in stage.inputs:
        if name in added:
            columns[name] = added[name]
        elif rows is not None and name in rows.column_names:
            columns[name] = pa.concat_arrays(rows.column(name).take(pa.array(kept)).chunks)
        else:
            raise ValueError(
                f"stage {stage.name} reads {name}, which no row has; name a recipe field, or put the stage "
                "that adds it before"
            )
    return pa.RecordBatch.from_pydict(columns)


def _pixels(views: Views, stage: Stage, kept: np.ndarray) -> Any:
    size = stage.preprocessing
    if size is not None and size not in views:  # generated images come at their own size
        import torch

        return torch.stack([size.resize(views[None][at]) for at in kept])
    pixels = views[size]
    if len(kept) == len(pixels):
        return pixels
    return [pixels[at] for at in kept] if isinstance(pixels, list) else pixels[kept]


def values_of(column: pa.Array) -> Sequence[Any]:
    """Values by row: a matrix `[N, D]` for a column of vectors, Python objects for any other."""
    if pa.types.is_fixed_size_list(column.type) and not column.null_count:
        return to_matrix(column)
    found: list[Any] = column.to_pylist()
    return found


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The Arrow column of `values_of`."""
    if pa.types.is_fixed_size_list(kind) and len(values):
        return from_matrix(np.stack(values)).cast(kind)
    return pa.array(values, kind)
