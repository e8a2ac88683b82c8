"""The search for damage in the rows of one part of a table, in any process."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.images import content_hash, decode_image
from engine.recipe import SORTED_FIELDS, Recipe, id_of
from engine.store.ids import id_bytes

BATCH_ROWS, BATCH_BYTES = 1_024, 16 << 20
"""Rows and bytes that are read at once, at most."""
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Part:
    """Some rows of one fragment of a version of a table."""

    uri: str
    version: int
    fragment_id: int
    start: int
    """First row."""
    num_rows: int
    """Number of rows, at most."""
    has_images: bool
    """Whether it is the table `images`."""


@dataclass
class PartReport:
    """Rows of a part that were read, and their defects."""

    num_rows: int = 0
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Id and defect of each wrong row."""
    bad: list[int] = field(default_factory=list)
    """Addresses of the wrong rows."""
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, "S16"))
    """`[N] S16` ids of the good rows."""
    good: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """`[N] uint64` their addresses."""
    problem: str = ""
    """Why the fragment cannot be read, if it cannot."""


def check_part(part: Part) -> PartReport:
    """Reads a part of a table and checks ids, pixels and embeddings."""
    report = PartReport()
    ids, good = [report.ids], [report.good]
    try:
        for batch in _batches(part):
            reasons = _recipe_problems(batch)
            if part.has_images:
                columns = [name for name in batch.schema.names if name.startswith("embedding_")]
                checks = [_image_problems(batch), *(_vector_problems(batch, name) for name in columns)]
                reasons = [next(filter(None, row), "") for row in zip(reasons, *checks, strict=True)]
            is_bad = np.array([bool(reason) for reason in reasons], bool)
            names, addresses = batch.column("id"), batch.column("_rowaddr").to_numpy()
            report.num_rows += batch.num_rows
            good.append(addresses[~is_bad])
            ids.append(id_bytes(names.filter(pa.array(~is_bad))))
            if is_bad.any():
                report.bad += addresses[is_bad].tolist()
                report.reasons += [(str(names[at]), reasons[at]) for at in np.flatnonzero(is_bad)]
    except BaseException as error:
        # on some corrupt files Lance panics, with an error that is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        report.problem = f"cannot be read: {(str(error).splitlines() or [''])[0][:200]}"
    report.ids, report.good = np.concatenate(ids), np.concatenate(good)
    return report


def _batches(part: Part) -> Any:
    import lance

    dataset = lance.dataset(part.uri, version=part.version)
    fragment = dataset.get_fragment(part.fragment_id)
    weight = sum(file.file_size_bytes or 0 for file in fragment.metadata.files) / max(1, fragment.physical_rows)
    rows = int(min(BATCH_ROWS, max(1, BATCH_BYTES // max(weight, 1))))
    return fragment.scanner(batch_size=rows, offset=part.start, limit=part.num_rows, with_row_address=True).to_batches()


def _recipe_problems(batch: pa.RecordBatch) -> list[str]:
    fields = zip(*(batch.column(name).to_pylist() for name in SORTED_FIELDS), strict=True)
    known = batch.column("id").to_pylist()
    return ["" if id_of(values) == one else _why(values) for one, values in zip(known, fields, strict=True)]


def _why(values: tuple[Any, ...]) -> str:
    try:
        Recipe.from_dict(dict(zip(SORTED_FIELDS, values, strict=True)))
    except ValueError as error:
        return str(error)
    return "the id is not that of the recipe"


def _image_problems(batch: pa.RecordBatch) -> list[str]:
    pairs = zip(batch.column("image").to_pylist(), batch.column("content_hash").to_pylist(), strict=True)
    return [_image_problem(data, expected) for data, expected in pairs]


def _image_problem(data: bytes, expected: str) -> str:
    try:
        same = content_hash(decode_image(data)) == expected
        return "" if same else "the image is not the one that was written"
    except ValueError as error:
        return str(error)


def _vector_problems(batch: pa.RecordBatch, column: str) -> list[str]:
    values = batch.column(column)
    known = np.asarray(values.is_valid())
    vectors = np.asarray(values.drop_null().flatten(), np.float32).reshape(-1, values.type.list_size)
    good = np.ones(len(values), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        good[known] = np.abs(np.linalg.norm(vectors, axis=1) - 1) < NORM_TOLERANCE  # false for NaN
    return ["" if one else f"{column} is not of unit norm" for one in good]
