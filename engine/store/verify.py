"""Damage to a workspace: a cheap check before a run, and a full search row by row; `repair` removes it."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.progress import Progress
from engine.store.ids import id_names
from engine.store.verify_rows import Part, PartReport, check_part

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

VERIFIED = ("images", "errors")
"""Tables whose rows are checked one by one."""
ROWS_PER_PART = 8_192
"""Rows that a process reads at once."""
FEW_ROWS = 16_384
"""Tables of fewer rows are read by this process alone."""


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


def check_files(workspace: "Workspace", names: Sequence[str] = VERIFIED) -> None:
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


def find_damage(workspace: "Workspace", num_processes: int = 1) -> VerifyReport:
    """Reads all of `images` and `errors`; see `Workspace.verify`."""
    report = VerifyReport()
    with ExitStack() as stack:
        run: Callable[..., Iterator[PartReport]] = map
        if num_processes > 1 and sum(workspace.dataset(name).count_rows() for name in VERIFIED) >= FEW_ROWS:
            # spawned, since Lance's threads do not survive a fork
            context = multiprocessing.get_context("spawn")
            run = stack.enter_context(ProcessPoolExecutor(num_processes, context)).map
        for name in VERIFIED:
            _verify_table(workspace, name, report, run)
    for name in ("captions", "caption_parts"):  # the next build of the corpus finds the rows that repair drops
        if fragments := workspace.dataset(name).get_fragments():
            _verify_files(workspace, name, fragments, report)
    return report


def _verify_table(
    workspace: "Workspace", name: str, report: VerifyReport, run: Callable[..., Iterator[PartReport]]
) -> None:
    dataset = workspace.dataset(name)
    fragments = dataset.get_fragments()
    sizes = _sizes(f"{workspace.table_uri(name)}/data") if fragments else {}
    report.rows[name], report.fragments[name], report.addresses[name] = 0, [], []
    problems = {fragment.fragment_id: _file_problem(sizes, fragment) for fragment in fragments}
    parts = [
        Part(dataset.uri, dataset.version, fragment.fragment_id, start, ROWS_PER_PART, name == "images")
        for fragment in fragments
        if not problems[fragment.fragment_id]
        for start in range(0, fragment.count_rows(), ROWS_PER_PART)
    ]
    progress = Progress(f"verify {name}", dataset.count_rows(), has_price=False)
    found: list[PartReport] = []
    for part, one in zip(parts, run(check_part, parts), strict=True):
        found.append(one)
        problems[part.fragment_id] = problems[part.fragment_id] or one.problem
        progress.add(one.num_rows)
        progress.show()
    for fragment in fragments:
        if problem := problems[fragment.fragment_id]:
            report.fragments[name].append(fragment.fragment_id)
            held = f"{problem}; it held {fragment.count_rows():,} rows"
            report.findings.append(Finding(name, fragment.metadata.files[0].path, held))
    for one in found:
        report.rows[name] += one.num_rows
        report.findings += [Finding(name, place, why) for place, why in one.reasons]
        report.addresses[name] += one.bad
    if name == "images":
        all_ids = np.concatenate([np.empty(0, "S16"), *(one.ids for one in found)])
        all_addresses = np.concatenate([np.empty(0, np.uint64), *(one.good for one in found)])
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
