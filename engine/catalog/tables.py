"""Hugging Face data sets on disk, without that library: `save_to_disk` folders (Arrow streams) and parquet files."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.catalog.folder import Folder, Part, Sample, held_out, quoted, split_names

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow")


class ImageTables(Folder):
    """One split of table files with an Image and a ClassLabel column.

    The split is the name of a folder in the path, or what the file's name begins with (`train-00000-of-00002.parquet`).
    Where no file names a split, every fifth row of a class in a file is `test`.
    """

    @cached_property
    def _tables(self) -> dict[str, dict[str, Any]]:
        return {
            name: info
            for name, info in self.files().items()
            if name.endswith(SUFFIXES) and not name.rpartition("/")[2].startswith((".", "cache-"))
        }

    @staticmethod
    def _split_of(name: str) -> str:
        *folders, file = name.split("/")
        words = {*folders, file.partition("-")[0].partition(".")[0]}
        return next((split for split in split_names() if split in words), "")

    @cached_property
    def _columns(self) -> "tuple[str, str, list[str], bool]":
        """Image column, label column, class names (none if the labels are no ClassLabel), whether an image has several."""
        schema = _open(self, next(iter(self._tables))).schema
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        images = [
            name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"
        ]
        labels = {name: _class_label(feature) for name, feature in features.items()}
        labels = {name: found for name, found in labels.items() if found}
        if len(images) != 1 or len(labels) != 1:
            raise ValueError(
                f"{self.location} has {len(images)} Image and {len(labels)} ClassLabel columns; "
                "keep one of each (datasets' cast_column gives a column its type)"
            )
        ((label, found),) = labels.items()
        assert found is not None
        return images[0], label, found[0], found[1]

    @property
    def kind(self) -> str:
        """A sample's text is its class's name, or its multi-hot labels."""
        return "multi_hot" if self._columns[3] else "name"

    def class_names(self) -> list[str]:
        """Names of the ClassLabel."""
        return self._columns[2]

    def parts(self) -> list[Part]:
        """The split's files.

        Raises:
            ValueError: the split is missing, or the files have not one image and one label column.
        """
        splits = {name: self._split_of(name) for name in self._tables}
        wanted = next((name for name in split_names(self.split) if name in splits.values()), "")
        found = [name for name, split in splits.items() if split == wanted]
        if not found or (not wanted and self.split not in ("train", "test")):
            there = ", ".join(sorted(set(splits.values()) - {""})) or "none"
            raise ValueError(f"{self.location} has no split '{self.split}' (there is {there}); name its files so")
        _ = self._columns
        return [self.part(name, self._tables[name]) for name in found]

    def samples(self, part: str, text_suffix: str = "") -> Iterator[Sample]:
        """Every row of a file that belongs to the split.

        Raises:
            ValueError: a row has no label.
        """
        _, label, names, several = self._columns
        whole = bool(self._split_of(part))
        seen: Counter[object] = Counter()
        for row, value in enumerate(_open(self, part).column(label)):
            if value is None or (isinstance(value, int) and not 0 <= value < len(names)):
                raise ValueError(f"{self.location}/{part}: row {row} has no label (it is {value}); give it one")
            belongs = whole or held_out(seen[str(value)]) == (self.split == "test")
            seen[str(value)] += 1
            if belongs:
                text = "".join("01"[number in value] for number in range(len(names))) if several else names[value]
                yield Sample(f"{quoted(part)}:{row}:0:", text)

    def read_rows(self, part: str, rows: Sequence[int]) -> list[bytes]:
        """Encoded bytes of the images in these rows of a file, in their order; empty where the table holds none."""
        cells = _open(self, part).take(self._columns[0], rows)
        return [(cell or {}).get("bytes") or b"" for cell in cells]


def _class_label(feature: Any) -> tuple[list[str], bool] | None:
    """Names of a ClassLabel, and whether it is a list of them; None for another feature."""
    several = isinstance(feature, list) or feature.get("_type") in ("Sequence", "List", "LargeList")
    inner = (feature[0] if isinstance(feature, list) else feature["feature"]) if several else feature
    if not isinstance(inner, dict) or inner.get("_type") != "ClassLabel" or not inner.get("names"):
        return None
    return list(inner["names"]), several


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
        return [found[row] for row in rows]


class _ArrowStream:
    """What `save_to_disk` writes: one stream of record batches."""

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


def _open(folder: Folder, name: str) -> "_Parquet | _ArrowStream":
    import pyarrow as pa

    try:
        return _Parquet(folder, name) if name.endswith(".parquet") else _ArrowStream(folder, name)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"table {folder.location}/{name} is broken ({error}); copy it again") from None
