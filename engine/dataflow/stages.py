"""The two stages of the stream: make and embed on a device, then write fragments."""

import json
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.images import content_hash, decode_image, encode_png
from engine.models.encoder import ImageEncoder, load_encoder
from engine.recipe import ERROR_SCHEMA, IMAGE_SCHEMA, RECIPE_SCHEMA, Recipe, embedding_column
from engine.sources.make import Made, Maker
from engine.sources.plan import Plan
from engine.store import Workspace, write_fragments

if TYPE_CHECKING:
    import torch

_FAILED = ("stage", "reason")
_TIMES = ("make_seconds", "embed_seconds")


@dataclass(frozen=True)
class Pricing:
    """What a worker needs of the price book."""

    usd_per_device_second: float
    """Of the share of a node that one actor holds."""
    usd_per_label: dict[str, float]
    """Source → what a person is paid for the label; a test image's label is not bought."""


class EmbedImages:
    """Actor: ids of committed images in, their embeddings by another encoder out."""

    def __init__(self, uri: str, encoder: str, device: str):
        self._workspace = Workspace.open(uri, create=False)
        self._encoder = _load_on(device, encoder)

    def __call__(self, block: pa.Table) -> pa.Table:
        """`id` → `id`, `vector` (fixed-size float32 list) and `seconds`; an id without an image is left out."""
        import torch

        images = self._workspace.fetch(block.column("id").to_pylist(), ["image"])
        started = time.perf_counter()
        pixels = [
            torch.from_numpy(decode_image(data).copy()).permute(2, 0, 1) for data in images.column("image").to_pylist()
        ]
        vectors = self._encoder.encode_images(pixels).cpu().numpy()
        seconds = (time.perf_counter() - started) / max(1, len(pixels))
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self._encoder.dimension)
        return pa.table({"id": images.column("id"), "vector": column, "seconds": [seconds] * len(pixels)})


def _load_on(device: str, encoder: str) -> ImageEncoder:
    import torch

    if device == "cpu":
        torch.set_num_threads(1)  # one actor a core
    return load_encoder(encoder, device=device)


class MakeImages:
    """Actor: recipe numbers in, rows out. Pixels are embedded on the device that made them, from the stored uint8 values;
    encoding to bytes runs in a thread beside, so the device does not wait for it."""

    def __init__(self, plan: Plan, maker: Maker, encoder: str, device: str, pricing: Pricing, run_id: str):
        import torch

        self._plan, self._maker = plan, maker
        self._device = device
        self._pricing = pricing
        self._run_id = run_id
        self._encoder = _load_on(device, encoder)
        self._maker.load(device)
        self._device_name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self._threads = ThreadPoolExecutor(max_workers=1 if device == "cpu" else 8)

    def __call__(self, block: pa.Table) -> pa.Table:
        """`index` int64 → the columns of `block_schema`, one row an index."""
        recipes = [self._plan[index] for index in block.column("index").to_pylist()]
        rows: list[_Row] = []
        step = self._maker.rows_per_call
        for start in range(0, len(recipes), step):
            rows += self._make_batch(recipes[start : start + step])
        return self._table(rows)

    def _make_batch(self, recipes: list[Recipe]) -> "list[_Row]":
        started = time.perf_counter()
        made = self._maker.make(recipes)
        whole = [number for number, one in enumerate(made) if one.pixels is not None]
        between = time.perf_counter()
        embeddings = dict(zip(whole, self._embed([made[number] for number in whole]), strict=True))
        ended = time.perf_counter()
        rows = []
        for number, (recipe, one) in enumerate(zip(recipes, made, strict=True)):
            row = _Row(recipe, one, make_seconds=(between - started) / len(recipes) + one.search_seconds)
            if one.pixels is not None:
                row.embed_seconds = (ended - between) / len(whole)
                row.embedding = embeddings[number]
                if not np.isfinite(row.embedding).all():
                    row.reason, row.stage = "the embedding is not finite", "embed"
                else:
                    row.stored = self._threads.submit(_store, one.pixels, one.encoded)
            rows.append(row)
        return rows

    def _embed(self, made: list[Made]) -> np.ndarray:
        if not made:
            return np.zeros((0, self._encoder.dimension), np.float32)
        return self._encoder.encode_images([one.pixels for one in made if one.pixels is not None]).cpu().numpy()

    def _table(self, rows: "list[_Row]") -> pa.Table:
        columns: dict[str, list[Any]] = defaultdict(list)
        embeddings: np.ndarray = np.zeros((len(rows), self._encoder.dimension), np.float32)
        for number, row in enumerate(rows):
            columns["id"].append(row.recipe.id)
            for name, value in row.recipe.as_dict().items():
                columns[name].append(value)
            stored = row.stored.result() if row.stored else (b"", "", 0, 0)
            for name, value in zip(("image", "content_hash", "image_height", "image_width"), stored, strict=True):
                columns[name].append(value)
            good = not row.reason
            seconds = row.make_seconds + row.embed_seconds
            bought = good and row.recipe.split != "test"
            columns["device_seconds"].append(seconds)
            columns["usd_compute"].append(seconds * self._pricing.usd_per_device_second)
            columns["usd_labels"].append(self._pricing.usd_per_label.get(row.recipe.source, 0.0) if bought else 0.0)
            columns["run_id"].append(self._run_id)
            columns["batch_size"].append(row.made.batch_size)
            columns["dtype"].append(row.made.dtype)
            columns["device"].append(self._device_name)
            columns["stage"].append(row.stage)
            columns["reason"].append(row.reason)
            columns["make_seconds"].append(row.make_seconds)
            columns["embed_seconds"].append(row.embed_seconds)
            if row.embedding is not None and good:
                embeddings[number] = row.embedding
        schema = block_schema(self._encoder.name, self._encoder.dimension)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self._encoder.dimension)
        arrays = [
            vectors if field.name == schema.names[-1] else pa.array(columns[field.name], field.type) for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


@dataclass
class _Row:
    recipe: Recipe
    made: Made
    make_seconds: float
    embed_seconds: float = 0.0
    embedding: np.ndarray | None = None
    stored: "Future[tuple[bytes, str, int, int]] | None" = None
    stage: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.made.reason:
            self.reason, self.stage = self.made.reason, "make"


def _store(pixels: "torch.Tensor", encoded: bytes | None) -> tuple[bytes, str, int, int]:
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
    return encoded or encode_png(array), content_hash(array), array.shape[0], array.shape[1]


def block_schema(encoder: str, dimension: int) -> pa.Schema:
    """Columns between the two stages: an image row, why it failed (or ``), its times, and the embedding last."""
    schema = pa.schema(list(IMAGE_SCHEMA))
    for name in _FAILED:
        schema = schema.append(pa.field(name, pa.string()))
    for name in _TIMES:
        schema = schema.append(pa.field(name, pa.float64()))
    return schema.append(pa.field(embedding_column(encoder), pa.list_(pa.float32(), dimension)))


def prepare_writer(uri: str) -> None:
    """Task: opens the table once, which loads its libraries, so that the process that ran it is ready to write."""
    Workspace.open(uri, create=False)


def write_block(block: pa.Table, uri: str) -> pa.Table:
    """Task: writes a block's images and errors as fragments; returns one row of receipts and sums, a few hundred bytes."""
    failed = pa.array([bool(reason) for reason in block.column("reason").to_pylist()], pa.bool_())
    errors = block.filter(failed).select([name for name in ERROR_SCHEMA.names if name in block.column_names])
    images = block.filter(pa.compute.invert(failed)).drop_columns([*_FAILED, *_TIMES])
    receipts = [
        write_fragments(uri, name, table).to_dict()
        for name, table in (("images", images), ("errors", errors))
        if table.num_rows
    ]
    return pa.table({"receipts": [json.dumps(receipts)], "work": [json.dumps(_sum_work(block))]})


def _sum_work(block: pa.Table) -> list[dict[str, Any]]:
    """What the block's rows took, by stage and kind of image: ledger rows without their run."""
    kinds = ("source", "dataset", "strategy", "generator")
    sums: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in block.select([*kinds, "reason", "usd_compute", "usd_labels", "device_seconds", *_TIMES]).to_pylist():
        for stage, seconds in (("make", row["make_seconds"]), ("embed", row["embed_seconds"])):
            key = (stage, *(row[kind] for kind in kinds))
            entry = sums.setdefault(
                key,
                dict(zip(("stage", *kinds), key, strict=True))
                | {"rows": 0, "busy_seconds": 0.0, "usd_compute": 0.0, "usd_labels": 0.0},
            )
            entry["rows"] += not row["reason"]
            entry["busy_seconds"] += seconds
            entry["usd_compute"] += row["usd_compute"] * (
                seconds / row["device_seconds"] if row["device_seconds"] else 0.0
            )
            entry["usd_labels"] += row["usd_labels"] if stage == "make" else 0.0
    return list(sums.values())


assert set(ERROR_SCHEMA.names) <= {*RECIPE_SCHEMA.names, *_FAILED, "device_seconds", "run_id"}
