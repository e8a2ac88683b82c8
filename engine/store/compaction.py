"""Merges small fragments in a few steps, so that at most three times a run's bytes are rewritten, four times a server's."""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from engine.store.durable import sync_fragments

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

BYTES_PER_FRAGMENT = 512 * 1024**2
ROWS_PER_FRAGMENT = 100_000
BATCH_ROWS = 256
KEPT = timedelta(minutes=10)
"""Age of the old versions that a clean-up keeps for readers."""
TIERS = (1.0, 1 / 16, 1 / 256, 1 / 4096)
"""Target sizes of merges, as fractions of a full fragment. Each merge lifts every row over one of them, so no row
is rewritten more often than there are tiers above its fragment. The smallest (25 rows or 128 kB) is for a server, which
commits single rows; fragments of runs are larger."""
ROOM = 2.0
"""Bytes of the disk per byte of the table: while files are merged, the old ones are still there."""
FRAGMENTS_PER_MERGE = 8
"""Fewer fragments are merged only if they make a full fragment."""


def size(fragment: Any) -> float:
    """Fill level of a fragment by its metadata: the larger of its shares of a full fragment's bytes and rows."""
    weight = sum(file.file_size_bytes or 0 for file in fragment.files)
    return float(max(weight / BYTES_PER_FRAGMENT, fragment.physical_rows / ROWS_PER_FRAGMENT))


def choose_groups(sizes: Sequence[float]) -> list[range]:
    """Runs of adjacent fragments worth a merge, as ranges of `sizes`; a run reaches a tier that none of its members does."""
    groups: list[range] = []
    taken = [False] * len(sizes)
    for tier in TIERS:
        start, total = 0, 0.0
        for place, one in enumerate(sizes):
            if taken[place] or one >= tier:
                start, total = place + 1, 0.0
                continue
            total += one
            if total >= tier and (place - start + 1 >= FRAGMENTS_PER_MERGE or total >= 1):
                groups.append(range(start, place + 1))
                taken[start : place + 1] = [True] * len(groups[-1])
                start, total = place + 1, 0.0
    return groups


def plan(dataset: Any) -> list[list[Any]]:
    """Metadata of the fragments of each worthwhile merge; reads no data."""
    from lance.optimize import Compaction

    # one task per run of neighbours covered by the same indices: fragments on both sides cannot become one
    tasks = Compaction.plan(dataset, {"target_rows_per_fragment": 2**31 - 1}).tasks
    runs = [list(task.fragments) for task in tasks]
    return [run[group.start : group.stop] for run in runs for group in choose_groups([size(one) for one in run])]


@dataclass(frozen=True)
class Merge:
    """The copying of some fragments into one; picklable, so that another node can do it."""

    uri: str
    version: int
    tasks: list[Any]

    def copy(self) -> list[Any]:
        """Writes the merged files, which no version names yet; returns what a commit needs."""
        import lance

        dataset = lance.dataset(self.uri, version=self.version)
        return [task.execute(dataset) for task in self.tasks]


Run = Callable[[Iterable[Merge]], Iterator[list[Any]]]
"""Runs merges somewhere, in any number at once; yields what `Merge.copy` returns, in their order."""


def run_here(merges: Iterable[Merge]) -> Iterator[list[Any]]:
    """Runs merges in this process, one after the other."""
    return (merge.copy() for merge in merges)


def merge_small(workspace: "Workspace", name: str, run: Run = run_here) -> int:
    """Merges the small fragments of a table for which it is worthwhile; returns the bytes written.

    Rows may be committed meanwhile: they wait only for the commits of the merges, not for the copying.
    """
    from lance.optimize import Compaction

    dataset = workspace.dataset(name)
    written = 0
    merges = []
    for group in plan(dataset):
        chosen = {fragment.id for fragment in group}
        others = [fragment.fragment_id for fragment in dataset.get_fragments() if fragment.fragment_id not in chosen]
        options = {
            "excluded_fragment_ids": others,
            # a group holds fewer rows than this and becomes one fragment
            "target_rows_per_fragment": 2 * ROWS_PER_FRAGMENT,
            # an image takes tens of kilobytes: the default batch of 8,192 would fill the memory
            "batch_size": BATCH_ROWS,
        }
        merges.append(Merge(dataset.uri, dataset.version, list(Compaction.plan(dataset, options).tasks)))
    for results in run(merges):
        new = [fragment for result in results for fragment in result.new_fragments]
        workspace.check_lock()
        if workspace.is_local:
            sync_fragments(workspace.table_path(name), new)
        with workspace.writing(name) as newest:
            Compaction.commit(newest, results)
        written += sum(file.file_size_bytes or 0 for fragment in new for file in fragment.files)
    if written:
        give_back_memory()
    return written


def give_back_memory() -> None:
    """Returns freed memory to the system where the C library is glibc.

    A merge's buffers are freed by many threads, and glibc keeps them: a driver of 700,000 rows held 180 MB that nothing used.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def clean(dataset: Any, keep_versions_for: timedelta) -> None:
    """Deletes old versions and unreferenced files of any age: no writer may be active."""
    dataset.cleanup_old_versions(older_than=keep_versions_for, delete_unverified=True)
