"""Damage to a workspace: a cheap check before a run, and a full search row by row; `repair` removes it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.images import content_hash, decode_image
from engine.progress import Progress
from engine.recipe import RECIPE_SCHEMA, Recipe
from engine.store.fence import FENCED
from engine.store.ids import id_bytes, id_names

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

BATCH_ROWS = 64
NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect of a table."""

    table_name: str
    place: str
    """Id of the row, or file of the fragment."""
    reason: str


@dataclass
class VerifyReport:
    """Rows that were read and defects that were found."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows that were read, by table."""
    findings: list[Finding] = field(default_factory=list)
    fragments: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the fragments that cannot be read, by table."""
    addresses: dict[str, list[int]] = field(default_factory=dict)
    """Addresses of the wrong rows, by table."""
    repaired: bool = False
    """Whether the damage has been removed."""

    @property
    def sound(self) -> bool:
        """Whether the workspace is sound now."""
        return self.repaired or not self.findings


def check_files(workspace: "Workspace", names: Sequence[str] = FENCED) -> None:
    """Compares the sizes of the data files of tables with the recorded sizes; reads no file.

    Raises ValueError for the first file that is missing or has another size; the message says how to repair it.
    """
    for name in names:
        fragments = workspace.dataset(name).get_fragments()
        sizes = _sizes(f"{workspace.table_uri(name)}/data") if fragments else {}
        for fragment in fragments:
            if problem := _file_problem(sizes, fragment):
                raise damaged(workspace.uri, problem)


def damaged(uri: str, finding: str) -> ValueError:
    """The error of a run that finds a damaged workspace."""
    fix = f"repair it with `imagefoundry verify {uri} --repair` and start the run again"
    return ValueError(f"workspace {uri} is damaged ({finding}); {fix}")


def _sizes(folder: str) -> dict[str, int]:
    if "://" not in folder:
        return {file.name: file.stat().st_size for file in Path(folder).iterdir()} if Path(folder).exists() else {}
    import fsspec

    fs, path = fsspec.core.url_to_fs(folder, use_listings_cache=False, skip_instance_cache=True)
    try:
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in fs.ls(path, detail=True)}
    except FileNotFoundError:
        return {}


def _file_problem(sizes: dict[str, int], fragment: Any) -> str:
    for file in fragment.metadata.files:
        size = sizes.get(file.path)
        if size is None:
            return f"data file {file.path} is missing"
        if file.file_size_bytes not in (None, size):
            return f"data file {file.path} has {size} bytes instead of {file.file_size_bytes}"
    return ""


def find_damage(workspace: "Workspace") -> VerifyReport:
    """Reads all of `images` and `errors`; see `Workspace.verify`."""
    report = VerifyReport()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in FENCED:
            _verify_table(workspace, name, report, pool)
    for name in ("captions", "caption_parts"):  # the next build of the corpus finds the rows that repair drops
        if fragments := workspace.dataset(name).get_fragments():
            _verify_files(workspace, name, fragments, report)
    return report


def _verify_table(workspace: "Workspace", name: str, report: VerifyReport, pool: ThreadPoolExecutor) -> None:
    dataset = workspace.dataset(name)
    fragments = dataset.get_fragments()
    sizes = _sizes(f"{workspace.table_uri(name)}/data") if fragments else {}
    report.rows[name], report.fragments[name], report.addresses[name] = 0, [], []
    ids, addresses = [np.empty(0, "S16")], [np.empty(0, np.uint64)]
    progress = Progress(f"verify {name}", sum(one.physical_rows for one in fragments), has_price=False)
    for fragment in fragments:
        problem = _file_problem(sizes, fragment)
        batches: list[tuple[np.ndarray, np.ndarray]] = []
        if not problem:
            try:
                for batch in _check_rows(fragment, name, report, pool):
                    batches.append(batch)
                    progress.add(report.rows[name] - progress.rows)
                    progress.show()
            except BaseException as error:
                # on some corrupt files Lance panics, with an error that is not an Exception
                if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                    raise
                problem = f"cannot be read: {(str(error).splitlines() or [''])[0][:200]}"
        if problem:
            report.fragments[name].append(fragment.fragment_id)
            report.findings.append(Finding(name, fragment.metadata.files[0].path, problem))
        for good_ids, good_addresses in batches:
            ids.append(good_ids)
            addresses.append(good_addresses)
    if name == "images":
        all_ids, all_addresses = np.concatenate(ids), np.concatenate(addresses)
        again = np.ones(len(all_ids), bool)
        again[np.unique(all_ids, return_index=True)[1]] = False
        report.addresses[name] += all_addresses[again].tolist()
        report.findings += [Finding(name, one, "this id occurs more than once") for one in id_names(all_ids[again])]


def _verify_files(workspace: "Workspace", name: str, fragments: list[Any], report: VerifyReport) -> None:
    sizes = _sizes(f"{workspace.table_uri(name)}/data")
    problems = {one.fragment_id: (one, _file_problem(sizes, one)) for one in fragments}
    report.rows[name] = sum(one.physical_rows for one, problem in problems.values() if not problem)
    report.fragments[name] = [number for number, (_, problem) in problems.items() if problem]
    report.findings += [Finding(name, one.metadata.files[0].path, why) for one, why in problems.values() if why]


def _check_rows(
    fragment: Any, name: str, report: VerifyReport, pool: ThreadPoolExecutor
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids `[N] S16` and addresses `[N] uint64` of the good rows of each batch; adds the others to the report."""
    for batch in fragment.scanner(batch_size=BATCH_ROWS, with_row_address=True).to_batches():
        reasons = [_recipe_problem(row) for row in batch.select(RECIPE_SCHEMA.names).to_pylist()]
        if name == "images":
            pixels = pool.map(_image_problem, batch.column("image"), batch.column("content_hash"))
            vectors = [
                _vector_problems(batch, column) for column in batch.schema.names if column.startswith("embedding_")
            ]
            reasons = [next(filter(None, row), "") for row in zip(reasons, pixels, *vectors, strict=True)]
        bad = np.array([bool(reason) for reason in reasons], bool)
        row_ids = batch.column("id").to_pylist()
        report.findings += [Finding(name, str(one), why) for one, why in zip(row_ids, reasons, strict=True) if why]
        addresses = batch.column("_rowaddr").to_numpy()
        report.addresses[name] += addresses[bad].tolist()
        report.rows[name] += batch.num_rows
        yield id_bytes([one for one, why in zip(row_ids, reasons, strict=True) if not why]), addresses[~bad]


def _recipe_problem(row: dict[str, Any]) -> str:
    try:
        return "" if Recipe.from_dict(row).id == row["id"] else "the id is not that of the recipe"
    except ValueError as error:
        return str(error)


def _image_problem(data: pa.Scalar, expected: pa.Scalar) -> str:
    try:
        same = content_hash(decode_image(data.as_py())) == expected.as_py()
        return "" if same else "the image is not the one that was written"
    except ValueError as error:
        return str(error)


def _vector_problems(batch: pa.RecordBatch, column: str) -> list[str]:
    values = batch.column(column)
    known = np.asarray(values.is_valid())
    vectors = np.asarray(values.drop_null().flatten(), np.float64).reshape(-1, values.type.list_size)
    good = np.ones(len(values), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        good[known] = np.abs(np.linalg.norm(vectors, axis=1) - 1) < NORM_TOLERANCE  # false for NaN
    return ["" if one else f"{column} is not of unit norm" for one in good]
