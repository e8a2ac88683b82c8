"""Hugging Face data sets on disk, without that library: `save_to_disk` folders (Arrow streams) and parquet files."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from engine.catalog.account import Left
from engine.catalog.folder import File, Folder
from engine.catalog.layouts.layout import (
    HELD_OUT,
    Part,
    Sample,
    file_part,
    held_out,
    hidden_rule,
    is_image,
    no_image,
    picture_column,
    quoted,
)
from engine.catalog.splits import split_of_path

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow")


class _Columns(NamedTuple):
    image: str
    label: str
    names: list[str]
    """Class names of the ClassLabel."""
    has_several: bool
    """Whether an image has several labels."""


class ImageTables:
    """Table files with an Image and a ClassLabel column.

    A file's split is the one that its name, or else the innermost of its folders, holds the keyword of
    (`train-00000-of-00002.parquet`, `test_0.parquet`). Where no file names a split, every fifth row of a class in a file is `test`.
    """

    title: ClassVar[str] = "Hugging Face tables"
    row_suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    is_listing: ClassVar[bool] = False

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._columns_of: dict[str, _Columns] = {}

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether there are tables."""
        return any(_is_table(name) for name in folder.files)

    @property
    def kind(self) -> str:
        """A sample's text is its class's name, or its multi-hot labels."""
        return "multi_hot" if self._columns(self._first).has_several else "name"

    def class_names(self) -> list[str]:
        """Names of the ClassLabel."""
        return self._columns(self._first).names

    @cached_property
    def _by_split(self) -> dict[str, list[str]]:
        """Split → its tables; those of no split (empty) alone count where no table has one."""
        found: dict[str, list[str]] = {}
        for name in self.folder.files:
            if _is_table(name):
                found.setdefault(split_of_path(name), []).append(name)
        return found

    @property
    def _first(self) -> str:
        return next(name for name in self.folder.files if _is_table(name))

    def splits(self) -> tuple[str, ...]:
        """Splits that the tables' names tell."""
        return tuple(sorted(split for split in self._by_split if split)) or ("",)

    def parts(self, split: str) -> list[Part]:
        """The split's files. Raises ValueError if one cannot be opened, or the first has not one image and one label column."""
        parts = [file_part(self.folder, name, "table") for name in self._by_split.get(split, [])]
        _ = self._columns(self._first)
        return parts

    def files_of(self, part: str) -> Sequence[str]:
        """The table."""
        return (part,)

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every row of a file.

        Raises:
            ValueError: the table is broken.
        """
        columns = self._columns(part)
        places = _places(columns.names, self.class_names()) if columns.has_several else []
        whole = bool(self.splits()[0])
        seen: Counter[str] = Counter()
        for row, value in enumerate(open_table(self.folder, part).column(columns.label)):
            text = _text(value, columns, places)
            if text is None:
                yield Left(
                    "refused", "a row without a label that is a class index", f"{part}: row {row} ({value!r:.40})"
                )
                continue
            belongs = whole or held_out(seen[text]) == (split == "test")
            seen[text] += 1
            if belongs:
                yield Sample(f"{quoted(part)}:{row}:0:", text)
            else:
                yield Left("ignored", HELD_OUT, f"{part}: row {row}")

    def read_rows(self, name: str, rows: Sequence[int]) -> list[bytes | ValueError]:
        """Encoded bytes of the images in these rows of a file, in their order."""
        table = open_table(self.folder, name)
        column = ("" if _features(table.schema) else picture_column(table.schema)) or self._columns(name).image
        return [_bytes(cell) for cell in table.take(column, rows)]

    def left_out(self, file: File) -> Left:
        """The library's caches, and what is no table."""
        if file.name.endswith(SUFFIXES):
            is_cache = file.name.rpartition("/")[2].startswith("cache-")
            return Left("ignored", "a cache of the datasets library" if is_cache else "a table of no split", file.name)
        return Left("ignored", "an image outside the tables" if is_image(file.name) else no_image(file.name), file.name)

    def advice(self, split: str) -> str:
        """How tables belong to a split."""
        return f"begin the names of its files with {split}"

    def _columns(self, name: str) -> _Columns:
        if name not in self._columns_of:
            self._columns_of[name] = self._find_columns(name)
        return self._columns_of[name]

    def _find_columns(self, name: str) -> _Columns:
        schema = open_table(self.folder, name).schema
        features = _features(schema)
        images = [
            name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"
        ]
        labels = {name: found for name, feature in features.items() if (found := _class_label(feature))}
        if len(images) != 1 or len(labels) != 1:
            raise ValueError(
                f"{self.folder.location}/{name} has {len(images)} Image and {len(labels)} ClassLabel columns; "
                "keep one of each (datasets' cast_column gives a column its type)"
            )
        ((label, (names, has_several)),) = labels.items()
        missing = [column for column in (images[0], label) if column not in schema.names]
        if missing:
            raise ValueError(f"{self.folder.location}/{name} has no column {missing[0]!r}; write the table again")
        return _Columns(images[0], label, names, has_several)


def _features(schema: "pa.Schema") -> dict[str, Any]:
    """Columns and their features, as the datasets library writes them into a schema; none where it has not."""
    found: Any = None
    with suppress(ValueError):
        found = json.loads((schema.metadata or {}).get(b"huggingface", b""))
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _is_table(name: str) -> bool:
    return name.endswith(SUFFIXES) and not hidden_rule(name) and not name.rpartition("/")[2].startswith("cache-")


def _class_label(feature: Any) -> tuple[list[str], bool] | None:
    """Names of a ClassLabel, and whether it is a list of them; None for another feature."""
    if isinstance(feature, list):
        inner, several = (feature or [None])[0], True
    elif isinstance(feature, dict):
        several = feature.get("_type") in ("Sequence", "List", "LargeList")
        inner = feature.get("feature") if several else feature
    else:
        return None
    if not isinstance(inner, dict) or inner.get("_type") != "ClassLabel" or not inner.get("names"):
        return None
    return list(inner["names"]), several


def _places(names: list[str], among: list[str]) -> list[int]:
    """Place of each of a file's classes among those of the data set. Raises ValueError for another class."""
    if set(names) != set(among):
        raise ValueError("the tables have different class names; give all the same ClassLabel")
    return [among.index(name) for name in names]


def _text(value: Any, columns: _Columns, places: list[int]) -> str | None:
    """Class name or multi-hot digits; None if a label is missing or no class index."""
    labels = [
        _index(each, len(columns.names)) for each in (value if columns.has_several and value is not None else [value])
    ]
    if None in labels:
        return None
    if not columns.has_several:
        return columns.names[labels[0] or 0]
    shown = {places[label] for label in labels if label is not None}
    return "".join("01"[number in shown] for number in range(len(places)))


def _index(value: Any, num_classes: int) -> int | None:
    """A class index from 0, also of a float, which is what a column with gaps becomes elsewhere."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < num_classes else None


def _bytes(cell: Any) -> bytes | ValueError:
    if cell is None:
        return ValueError("the row has no image")
    if isinstance(cell, bytes):
        return cell
    data = cell.get("bytes") if isinstance(cell, dict) else None
    if data:
        return bytes(data)
    if isinstance(cell, dict) and cell.get("path") and data is None:
        return ValueError(
            "the row has a path and no bytes; embed the images into the table (datasets' embed_table_storage)"
        )
    return ValueError("the row has no image")


class _Parquet:
    """A parquet file; of the images, only the row groups that are asked for are read."""

    def __init__(self, folder: Folder, name: str):
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(folder.open(name))
        self.schema: pa.Schema = self._file.schema_arrow

    def column(self, name: str) -> list[Any]:
        return self._file.read(columns=[name]).column(name).to_pylist()

    def take(self, name: str, rows: Sequence[int]) -> list[Any]:
        found: dict[int, Any] = {}
        start = 0
        for group in range(self._file.num_row_groups):
            stop = start + self._file.metadata.row_group(group).num_rows
            wanted = sorted({row for row in rows if start <= row < stop})
            if wanted:
                column = self._file.read_row_group(group, columns=[name]).column(name)
                found.update(zip(wanted, column.take([row - start for row in wanted]).to_pylist(), strict=True))
            start = stop
        return [found.get(row) for row in rows]


class _ArrowStream:
    """A file of `save_to_disk`: one stream of record batches."""

    def __init__(self, folder: Folder, name: str):
        import pyarrow as pa

        if folder.is_local:  # mapped, so that only the rows that are taken are read
            self._table = pa.ipc.open_stream(pa.memory_map(folder.path(name))).read_all()
        else:
            with folder.open(name) as file:
                self._table = pa.ipc.open_stream(file).read_all()
        self.schema: pa.Schema = self._table.schema

    def column(self, name: str) -> list[Any]:
        return self._table.column(name).to_pylist()

    def take(self, name: str, rows: Sequence[int]) -> list[Any]:
        return self._table.column(name).take(list(rows)).to_pylist()


def open_table(folder: Folder, name: str) -> "_Parquet | _ArrowStream":
    """A table file. Raises ValueError if it is broken."""
    import pyarrow as pa

    try:
        return _Parquet(folder, name) if name.endswith(".parquet") else _ArrowStream(folder, name)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"table {folder.location}/{name} is broken ({error}); copy it again") from None
