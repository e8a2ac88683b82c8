"""Parquet tables of web pictures and their captions (LAION and its like): files, columns, and parts to read."""

import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.catalog.account import Account
from engine.catalog.captions import caption_keys, normal_caption
from engine.catalog.folder import Folder
from engine.catalog.layouts.layout import common_rule

READERS = 8
"""Footers that are read at once."""
ROWS_PER_PART = 32_768
"""Row groups are read together until they have this many rows …"""
MAX_ROWS_PER_PART = 131_072
"""… and cut where one has more than this."""
MAX_URL_CHARACTERS = 2_000


@dataclass(frozen=True)
class RowRules:
    """The rows of a caption table that enter the corpus."""

    url_column: str = ""
    """Column of the addresses; recognised by its name if not given."""
    caption_column: str = ""
    """Column of the captions; recognised by its name if not given."""
    least_similarity: float = 0.0
    """Least similarity of picture and caption, where the table has it; LAION-400M was made with 0.3."""
    least_pixels: int = 0
    """Least pixels of the shorter side, where the table has the sizes. GenBench section 11 finds 32 too few."""
    keep_flagged: tuple[str, ...] = ()
    """Flags whose rows are kept: any of `nsfw`, `unsafe`, `watermark`."""

    def check(self) -> None:
        """Raises ValueError if a value is invalid."""
        known = sorted(_facts()["flags"])
        for flag in self.keep_flagged:
            if flag not in known:
                raise ValueError(f"there is no flag {flag!r}; give any of {', '.join(known)}")
        if self.least_pixels < 0 or not -1 <= self.least_similarity <= 1:
            raise ValueError(
                "least pixels is negative or least similarity is outside -1 to 1; give a value that a row can have"
            )


@dataclass(frozen=True)
class TablePart:
    """Some rows of a file: the unit that is read, embedded and committed."""

    file: str
    """Path below the location."""
    stamp: str
    """Size and time of the file."""
    start: int
    """First row."""
    num_rows: int
    row_groups: tuple[int, ...]
    """Row groups that hold them."""
    offset: int = 0
    """Rows of the first of these groups that come before."""

    def number(self, corpus: str) -> int:
        """63-bit number of the part within a corpus; it changes with the file."""
        text = f"{corpus}\0{self.file}\0{self.stamp}\0{self.start}\0{self.num_rows}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass
class TableRows:
    """The rows of a part that may enter the corpus, and why the others may not."""

    table: pa.Table
    """`row` (in the file), `url`, `caption`, `similarity`, `width`, `height`."""
    keys: np.ndarray
    """`[N] int64` keys of the captions."""
    left: dict[str, int] = field(default_factory=dict)
    """`ignored: …` or `refused: …` → number of rows."""


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads(files("engine.catalog").joinpath("caption_columns.toml").read_text("utf-8"))


def plan_parts(location: str, rules: RowRules) -> tuple[list[TablePart], Account]:
    """The parts of all tables of a folder or URL in the order of their names, and the account of its files.

    Raises:
        ValueError: the place is out of reach, has no table that can be read, or a table lacks the addresses or the captions.
    """
    rules.check()
    folder, account, names = Folder(location), Account(), []
    for file in folder.files.values():
        if left := common_rule(file):
            account.leave(left)
        elif file.name.lower().endswith(".parquet"):
            names.append(file.name)
        else:
            account.add("ignored", "no parquet table", file.name)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda name: _footer(folder, name), names))
    parts: list[TablePart] = []
    for name, footer in zip(names, found, strict=True):
        if isinstance(footer, str):
            account.add("refused", footer, name, planned=True)
            continue
        schema, sizes = footer
        try:
            find_columns(schema.names, rules)
        except ValueError as error:
            raise ValueError(f"{location}/{name}: {error}") from None
        if not sum(sizes):
            account.add("ignored", "a table without rows", name)
            continue
        account.add("used", "", name)
        stamp = f"{folder.files[name].size} {folder.files[name].stamp}"
        parts += _cut(name, stamp, sizes)
    if not parts:
        reason = next((f" ({text})" for text in found if isinstance(text, str)), "")
        raise ValueError(
            f"{location} has no parquet table with rows that can be read{reason}; give a folder of such tables"
        )
    return parts, account


def _footer(folder: Folder, name: str) -> tuple[pa.Schema, list[int]] | str:
    """Schema and rows per row group, or why the file cannot be read."""
    try:
        with folder.open(name) as stream:
            metadata = pq.read_metadata(stream)
            return metadata.schema.to_arrow_schema(), [
                metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
            ]
    except (pa.ArrowException, OSError):
        return "no parquet table, or cut off"


def _cut(name: str, stamp: str, sizes: Sequence[int]) -> list[TablePart]:
    parts: list[TablePart] = []
    groups: list[int] = []
    rows = start = 0
    for group, size in enumerate(sizes):
        if size > MAX_ROWS_PER_PART:
            if rows:
                parts.append(TablePart(name, stamp, start - rows, rows, tuple(groups)))
                groups, rows = [], 0
            for offset in range(0, size, MAX_ROWS_PER_PART):
                taken = min(MAX_ROWS_PER_PART, size - offset)
                parts.append(TablePart(name, stamp, start + offset, taken, (group,), offset))
            start += size
            continue
        groups.append(group)
        rows, start = rows + size, start + size
        if rows >= ROWS_PER_PART:
            parts.append(TablePart(name, stamp, start - rows, rows, tuple(groups)))
            groups, rows = [], 0
    if rows:
        parts.append(TablePart(name, stamp, start - rows, rows, tuple(groups)))
    return parts


def find_columns(names: Sequence[str], rules: RowRules) -> dict[str, str]:
    """Meaning (`url`, `caption`, `width`, …, `flag:nsfw`, …) → column of a table.

    Raises:
        ValueError: the table lacks the addresses or the captions, or a column that the rules name.
    """
    by_name = {name.casefold(): name for name in reversed(names)}
    found = {}
    for meaning, candidates in _facts()["columns"].items():
        given = getattr(rules, f"{meaning}_column", "")
        if given and given not in names:
            raise ValueError(f"the table has no column {given!r}; it has {', '.join(names)}")
        column = given or next((by_name[one] for one in candidates if one in by_name), "")
        if column:
            found[meaning] = column
        elif meaning in ("url", "caption"):
            raise ValueError(
                f"none of the columns {', '.join(names)} is known to hold the {meaning}s; name it with --{meaning}-column"
            )
    for flag, fact in _facts()["flags"].items():
        column = next((by_name[one] for one in fact["columns"] if one in by_name), "")
        if column and flag not in rules.keep_flagged:
            found[f"flag:{flag}"] = column
    return found


def read_part(location: str, part: TablePart, rules: RowRules) -> TableRows:
    """Reads a part, leaves out the rows that the rules exclude, and normalises the captions.

    Raises:
        ValueError: the rows cannot be read, or the file has changed since the parts were planned.
    """
    folder = Folder(location)
    try:
        with folder.open(part.file) as stream:
            file = pq.ParquetFile(stream)
            columns = find_columns(file.schema_arrow.names, rules)
            table = file.read_row_groups(list(part.row_groups), columns=sorted(set(columns.values())))
    except (pa.ArrowException, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ValueError(f"the rows cannot be read ({reason})") from None
    table = table.slice(part.offset, part.num_rows)
    if table.num_rows != part.num_rows:
        raise ValueError(f"the file has {table.num_rows} rows here, not {part.num_rows}; it changed while it was read")
    return _select(part, {meaning: table.column(column) for meaning, column in columns.items()}, rules)


def _select(part: TablePart, columns: Mapping[str, pa.ChunkedArray], rules: RowRules) -> TableRows:
    urls, texts = (_strings(columns[name]).to_pylist() for name in ("url", "caption"))
    captions = [normal_caption(text) if text else "" for text in texts]
    sizes = {name: _numbers(columns.get(name), part.num_rows) for name in ("width", "height", "similarity")}
    shorter = np.fmin(sizes["width"], sizes["height"])
    reasons = {
        "refused: no http address": np.array([not _is_address(url) for url in urls], bool),
        "refused: no caption": np.array([not text for text in captions], bool),
        f"ignored: a side under {rules.least_pixels} pixels": shorter < rules.least_pixels,
        f"ignored: similarity below {rules.least_similarity:g}": sizes["similarity"] < rules.least_similarity,
    }
    for flag, fact in _facts()["flags"].items():
        if (column := columns.get(f"flag:{flag}")) is not None:
            reasons[f"ignored: flagged {flag}"] = _flagged(column, fact)
    kept = np.ones(part.num_rows, bool)
    left = {}
    for reason, is_left in reasons.items():
        if number := int((kept & is_left).sum()):
            left[reason] = number
        kept &= ~is_left
    rows = np.flatnonzero(kept)
    chosen = [captions[row] for row in rows]
    table = pa.table(
        {
            "row": pa.array(part.start + rows, pa.int64()),
            "url": pa.array([urls[row] for row in rows], pa.string()),
            "caption": pa.array(chosen, pa.string()),
            "similarity": pa.array(sizes["similarity"][rows], pa.float32(), from_pandas=True),
            "width": pa.array(sizes["width"][rows], from_pandas=True).cast(pa.int32()),
            "height": pa.array(sizes["height"][rows], from_pandas=True).cast(pa.int32()),
        }
    )
    return TableRows(table, caption_keys(chosen), left)


def _is_address(url: str | None) -> bool:
    return bool(url) and str(url).startswith(("http://", "https://")) and len(str(url)) <= MAX_URL_CHARACTERS


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as text; bytes that are not UTF-8 count as missing."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pa.chunked_array([[_decoded(value) for value in column.to_pylist()]], pa.string())
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _numbers(column: pa.ChunkedArray | None, num_rows: int) -> np.ndarray:
    """`[N] float64`; NaN where a value is missing or no number, and in all rows without the column."""
    if column is None:
        return np.full(num_rows, np.nan)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array([_number(text) for text in column.to_pylist()], np.float64)
    values: np.ndarray = pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy()
    return np.where(np.abs(values) < 2**31, values, np.nan)


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return float("nan")
    return value if abs(value) < 2**31 else float("nan")


def _flagged(column: pa.ChunkedArray, fact: Mapping[str, Any]) -> np.ndarray:
    if "above" in fact:
        return _numbers(column, len(column)) >= fact["above"]
    words = set(fact["words"])
    return np.array([str(value).strip().casefold() in words for value in column.to_pylist()], bool)
