"""The rows that all formats write: the encoded image, its label and the columns of its recipe, cost and size."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.export.several_labels import label_columns
from engine.recipe import RECIPE_SCHEMA
from engine.store.snapshot import Snapshot

TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()

COLUMNS = pa.schema(
    [
        *[pa.field(field.name, field.type) for field in RECIPE_SCHEMA if field.name != "split"],
        *[pa.field("content_hash", TEXT), pa.field("image_height", WHOLE), pa.field("image_width", WHOLE)],
        *[pa.field(name, REAL) for name in ("device_seconds", "usd_compute", "usd_labels")],
        *[pa.field(name, TEXT) for name in ("run_id", "dtype", "device", "image_format")],
        pa.field("batch_size", WHOLE),
    ]
)
"""Columns beside image and label, none of them null: the recipe, the hash of the pixels, the cost, and how the image was made."""

SUFFIXES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)
"""First bytes → suffix of a file."""


@dataclass
class Rows:
    """Some rows of one split, in the order of the table."""

    split: str
    ids: list[str]
    images: list[bytes]
    """Encoded, with their marks."""
    labels: list[list[int]]
    """Of each image: one, or any number in ascending order where images have several."""
    table: pa.Table
    """`COLUMNS`, and the columns that stages added."""

    @property
    def suffixes(self) -> list[str]:
        """Suffix of each image's file, by its content."""
        return [suffix_of(image) for image in self.images]


@dataclass(frozen=True)
class Written:
    """What a format wrote of one split."""

    split: str
    num_examples: int
    num_bytes: int
    """Bytes of the images and the columns, uncompressed."""
    files: tuple[str, ...]
    """Paths of its shards below the output; empty for a folder of single files."""


def suffix_of(image: bytes) -> str:
    """Suffix of an encoded image by its first bytes; `img` where none is known."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    if image[:1] == b"P" and image[1:2] in b"123456":
        return "ppm"
    return next((suffix for start, suffix in SUFFIXES if image.startswith(start)), "img")


def stage_columns(schema: pa.Schema) -> list[pa.Field]:
    """Columns of plain values that stages added to the table, as a score or a caption; embeddings are not exported."""
    known = {*COLUMNS.names, "split", "image"}
    plain = (pa.types.is_string, pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [field for field in schema if field.name not in known and any(is_kind(field.type) for is_kind in plain)]


def columns_to_read(snapshot: Snapshot) -> list[str]:
    """Columns of the table that an export needs; tables of older releases lack some."""
    present = snapshot.schema.names
    return [
        *[name for name in COLUMNS.names if name in present],
        *[field.name for field in stage_columns(snapshot.schema)],
        *label_columns(snapshot),
        *["split", "image"],
    ]


def as_exported(batch: pa.RecordBatch, extra: Sequence[pa.Field]) -> pa.Table:
    """`COLUMNS` without a null, and the `extra` columns as they are."""
    import pyarrow.compute as pc

    arrays: list[Any] = []
    for field in COLUMNS:
        if field.name in batch.schema.names:
            column = batch.column(field.name).cast(field.type)
            arrays.append(pc.fill_null(column, "" if field.type == TEXT else 0) if column.null_count else column)
        else:
            arrays.append(pa.array([""] * batch.num_rows, TEXT))
    arrays += [batch.column(field.name) for field in extra]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*COLUMNS, *extra]))


def to_json(row: dict[str, Any]) -> bytes:
    """One row's columns as JSON with the same keys in every row."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
