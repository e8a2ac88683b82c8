"""Hugging Face parquet: `data/SPLIT-00000-of-00002.parquet` with an Image and a ClassLabel column, or a list of ClassLabels.

`datasets`, the Hub's viewer and our own `engine.catalog.layouts.tables` read the features from the schema's metadata.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.export.rows import COLUMNS, Rows, Written

FOLDER = "data"
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def features(labels: Sequence[str], extra: Sequence[pa.Field], several: bool = False) -> dict[str, Any]:
    """Columns and their features, as the `datasets` library writes them; with `several`, an image has a list of labels."""
    values = {field.name: {"dtype": _dtype(field.type), "_type": "Value"} for field in [*COLUMNS, *extra]}
    label: dict[str, Any] = {"names": list(labels), "_type": "ClassLabel"}
    # "List" since version 4 of the library, which reads the older word too
    shown = {"labels": {"feature": label, "_type": "Sequence"}} if several else {"label": label}
    return {"image": {"_type": "Image"}} | shown | values


def _dtype(kind: pa.DataType) -> str:
    return {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))


@dataclass
class _Shard:
    """The open file of a split, and the rows that wait for a row group of their own."""

    folder: Path
    split: str
    writer: Any = None
    waiting: list[pa.Table] = field(default_factory=list)
    waiting_bytes: int = 0
    file_bytes: int = 0
    paths: list[Path] = field(default_factory=list)
    num_rows: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """Bytes of images and columns, uncompressed, at most."""

    shard_bytes: int
    group_bytes: int
    """Of a row group."""


class ParquetWriter:
    """Writes shards in row groups."""

    def __init__(self, folder: Path, found: dict[str, Any], extra: Sequence[pa.Field], limits: Limits) -> None:
        """`found`: the `features`; `extra`: the columns that stages added."""
        self._folder, self._shard_bytes, self._group_bytes = folder, limits.shard_bytes, limits.group_bytes
        self._several = "labels" in found
        info = {"info": {"features": found}}
        label = pa.field("labels", pa.list_(pa.int64())) if self._several else pa.field("label", pa.int64())
        columns = [pa.field("image", IMAGE), label, *COLUMNS, *extra]
        self._schema = pa.schema(columns, metadata={"huggingface": json.dumps(info)})
        self._shards: dict[str, _Shard] = {}
        (folder / FOLDER).mkdir()

    def add(self, rows: Rows) -> None:
        """Adds rows of one split."""
        shard = self._shards.setdefault(rows.split, _Shard(self._folder / FOLDER, rows.split))
        names = [f"{one}.{suffix}" for one, suffix in zip(rows.ids, rows.suffixes, strict=True)]
        images = pa.StructArray.from_arrays([pa.array(rows.images, pa.binary()), pa.array(names)], fields=list(IMAGE))
        labels = rows.labels if self._several else [one for (one,) in rows.labels]
        table = pa.table(
            [images, pa.array(labels, self._schema.field(1).type), *rows.table.columns], schema=self._schema
        )
        start, total = 0, 0
        sizes = _row_sizes(rows, table)
        for place, size in enumerate(sizes):
            if shard.waiting_bytes + total and shard.waiting_bytes + total + size > self._group_bytes:
                self._wait(shard, table.slice(start, place - start), total)
                self._flush(shard)
                start, total = place, 0
            total += size
        self._wait(shard, table.slice(start), total)

    def _wait(self, shard: _Shard, table: pa.Table, num_bytes: int) -> None:
        if table.num_rows:
            shard.waiting.append(table)
            shard.waiting_bytes += num_bytes

    def _flush(self, shard: _Shard) -> None:
        """Writes what waits as one row group, into a new file where the present one would become too large."""
        if not shard.waiting:
            return
        if shard.writer is not None and shard.file_bytes + shard.waiting_bytes > self._shard_bytes:
            self._close(shard)
        if shard.writer is None:
            path = shard.folder / f"{shard.split}-{len(shard.paths):05}.parquet"
            shard.paths.append(path)
            # encoded images do not become smaller; columns of recipes do
            compression = {"image.bytes": "none"}
            shard.writer = pq.ParquetWriter(
                path,
                self._schema,
                compression={name: compression.get(name, "snappy") for name in _leaves(self._schema)},
                use_dictionary=[
                    name for name in _leaves(self._schema) if name not in ("image.bytes", "image.path", "id")
                ],
                write_page_index=True,
            )
        group = pa.concat_tables(shard.waiting)
        shard.writer.write_table(group, row_group_size=group.num_rows)
        shard.file_bytes += shard.waiting_bytes
        shard.num_bytes += shard.waiting_bytes
        shard.num_rows += group.num_rows
        shard.waiting, shard.waiting_bytes = [], 0

    def _close(self, shard: _Shard) -> None:
        if shard.writer is not None:
            shard.writer.close()
        shard.writer, shard.file_bytes = None, 0

    def finish(self) -> list[Written]:
        """Closes the files and names them by their number."""
        found = []
        for split, shard in self._shards.items():
            self._flush(shard)
            self._close(shard)
            names = []
            for number, path in enumerate(shard.paths):
                name = f"{split}-{number:05}-of-{len(shard.paths):05}.parquet"
                path.rename(path.with_name(name))
                names.append(f"{FOLDER}/{name}")
            found.append(Written(split, shard.num_rows, shard.num_bytes, tuple(names)))
        return found


def _row_sizes(rows: Rows, table: pa.Table) -> list[int]:
    """Bytes of each row: its image, and its part of the columns."""
    rest = max(table.nbytes - sum(map(len, rows.images)), 0) // max(table.num_rows, 1)
    return [len(image) + rest for image in rows.images]


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the columns as parquet names them."""
    rest = ["labels.list.element" if name == "labels" else name for name in schema.names[1:]]
    return ["image.bytes", "image.path", *rest]
