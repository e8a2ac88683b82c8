"""The output folders of img2dataset: captioned pictures of the web in shards, as files, tars or tables."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from engine.catalog.account import Left
from engine.catalog.folder import File, Folder
from engine.catalog.layouts.layout import Part, Sample, file_part, is_image, no_image, picture_column, quoted
from engine.catalog.layouts.tables import open_table
from engine.catalog.layouts.webdataset import WebDataset

_STATS = re.compile(r"(\d{5,})_stats\.json")
_SHARD = re.compile(r"(\d{5,})(\.tar|\.parquet|/.*)")
FAILED = "img2dataset could not fetch it"
LEAST_ORIGINAL = 32
"""Pixels per side below which an original shows too little (GenBench section 11), also where img2dataset has enlarged it."""
ENLARGED = f"img2dataset has enlarged it from less than {LEAST_ORIGINAL}x{LEAST_ORIGINAL} pixels"
_SIZES = ("width", "height", "original_width", "original_height")


class Img2Dataset:
    """Shards `00000`, `00001`, … with gaps, each finished once `00000_stats.json` is there.

    A shard is a tar of pictures and captions (`webdataset`), a folder of them (`files`), or a table that holds the pictures
    (`parquet`); the first two have a table `00000.parquet` beside them with a row per address, failures too.
    """

    title: ClassVar[str] = "img2dataset folders"
    row_suffixes: ClassVar[tuple[str, ...]] = ()  # its tables are read as all are
    is_listing: ClassVar[bool] = False
    kind = "index"

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether a shard is finished."""
        return any(_STATS.fullmatch(name) for name in folder.files)

    def class_names(self) -> list[str]:
        """None: the pictures have captions."""
        return []

    def splits(self) -> tuple[str, ...]:
        """All is for training."""
        return ("train",)

    @cached_property
    def _shards(self) -> dict[str, str]:
        """Finished shard → its tar, its folder (ending in `/`), or its table."""
        finished = {found[1] for name in self.folder.files if (found := _STATS.fullmatch(name))}
        folders = {name.partition("/")[0] for name in self.folder.files if "/" in name}
        shards = {}
        for name in sorted(finished):
            if f"{name}.tar" in self.folder.files:
                shards[name] = f"{name}.tar"
            elif name in folders:
                shards[name] = f"{name}/"
            elif f"{name}.parquet" in self.folder.files:
                shards[name] = f"{name}.parquet"
        return shards

    def parts(self, split: str) -> list[Part]:
        """The finished shards. Raises ValueError if one of them cannot be opened."""
        parts = []
        for name, shard in self._shards.items():
            if shard.endswith("/"):
                table = file_part(self.folder, f"{name}.parquet", "table") if self._has_table(name) else Part("", 0, "")
                files = [self.folder.files[file] for file in self.files_of(shard)]
                stamp = f"{table.stamp} {len(files)} {max((file.stamp for file in files), default='')}"
                parts.append(Part(shard, sum(file.size or 0 for file in files), stamp))
            else:
                parts.append(file_part(self.folder, shard, "shard"))
        return parts

    def _has_table(self, name: str) -> bool:
        return f"{name}.parquet" in self.folder.files

    def files_of(self, part: str) -> Sequence[str]:
        """The shard's files, with its table and its counts."""
        name = part.rstrip("/").partition(".")[0]
        beside = [file for file in (f"{name}.parquet", f"{name}_stats.json") if file in self.folder.files]
        own = [file for file in self.folder.files if file.startswith(part)] if part.endswith("/") else [part]
        return list(dict.fromkeys([*own, *beside]))

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every picture with its caption, and every address that failed.

        Raises:
            ValueError: a tar or a table is broken; or classes are asked for, which the pictures do not have.
        """
        if text_suffix != "txt":
            raise ValueError(
                f"{self.folder.location} holds pictures with captions and without classes; give it as a pool (--pool)"
            )
        name = part.rstrip("/").partition(".")[0]
        rows: list[dict[str, Any]] = []
        if self._has_table(name):
            try:
                rows = self._rows(name)
            except ValueError:
                if part.endswith(".parquet"):
                    raise
                yield Left("refused", "the table of a shard is broken; the pictures beside it count", f"{name}.parquet")
        if part.endswith(".tar"):
            found = WebDataset(self.folder).samples(part, split, text_suffix)
        elif part.endswith("/"):
            found = self._files(part, {row.get("key"): row for row in rows})
        else:
            found = self._table(part, rows)
        enlarged = {str(row.get("key")) for row in rows if _is_enlarged(row)}
        for one in found:
            if isinstance(one, Sample) and (key := _key(one)) in enlarged:
                yield Left("ignored", ENLARGED, f"{name}: {key}")
            else:
                yield one
        for row in rows:
            if row.get("status", "success") != "success":
                reason = f"{FAILED} ({row['status']})"
                yield Left("ignored", reason, f"{name}: {row.get('url') or row.get('key')}"[:200])

    def _rows(self, name: str) -> list[dict[str, Any]]:
        table = open_table(self.folder, f"{name}.parquet")
        columns = [one for one in ("key", "url", "caption", "status", *_SIZES) if one in table.schema.names]
        values = [table.column(one) for one in columns]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def _files(self, part: str, rows: dict[Any, dict[str, Any]]) -> Iterator[Sample | Left]:
        for name, file in self.folder.files.items():
            if not name.startswith(part) or not is_image(name):
                continue
            key = name[len(part) :].rpartition(".")[0]
            caption = rows.get(key, {}).get("caption")
            if caption is None and (beside := f"{part}{key}.txt") in self.folder.files:
                caption = " ".join(self.folder.read_lines(beside))
            if not caption or not str(caption).strip():
                yield Left("refused", "a picture without a caption", name)
            else:
                yield Sample(f"{quoted(name)}:0:{file.size or 0}:", str(caption).strip(), file.problem)

    def _table(self, part: str, rows: Sequence[dict[str, Any]]) -> Iterator[Sample | Left]:
        came = [row for row in rows if row.get("status", "success") == "success"]
        if came and not picture_column(open_table(self.folder, part).schema):
            raise ValueError(
                f"{self.folder.location}/{part} has no pictures, and neither a folder nor a tar has them; fetch them again"
            )
        for number, row in enumerate(rows):
            caption = str(row.get("caption") or "").strip()
            if row.get("status", "success") != "success":
                continue
            if caption:
                yield Sample(f"{quoted(part)}:{number}:0:{row.get('key') or ''}", caption)
            else:
                yield Left("refused", "a picture without a caption", f"{part}: row {number}")

    def read_rows(self, name: str, rows: Sequence[int]) -> list[bytes | ValueError]:
        """Never called: its tables are read as all are."""
        raise AssertionError("img2dataset's tables are read by ImageTables")

    def left_out(self, file: File) -> Left:
        """Shards that are not finished, and what belongs to none."""
        found = _SHARD.fullmatch(file.name)
        if found and found[1] not in self._shards:
            return Left("ignored", "of a shard that img2dataset has not finished", file.name)
        if _STATS.fullmatch(file.name):
            return Left("ignored", "counts of a shard without pictures", file.name)
        return Left("ignored", no_image(file.name), file.name)

    def advice(self, split: str) -> str:
        """There is no way to it."""
        return "give a data set with classes for testing"


def _is_enlarged(row: dict[str, Any]) -> bool:
    """Whether a picture looks large enough and comes from one that is not."""
    width, height, *original = (row.get(name) or 0 for name in _SIZES)
    return 0 < min(original) < LEAST_ORIGINAL <= min(width, height)


def _key(sample: Sample) -> str:
    """img2dataset's key of a picture: the end of the sample's key, or the stem of its file."""
    return sample.key.rpartition(":")[2] or sample.key.partition(":")[0].rpartition("/")[2].rpartition(".")[0]
