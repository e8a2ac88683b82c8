"""Forces files of a local workspace to disk, so that rows reported as written survive a power cut."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_AT_ONCE = ThreadPoolExecutor(8, "sync")


def sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_all(paths: Sequence[Path]) -> None:
    """Forces several files and folders to disk, at once: they share a write of the file system's journal."""
    try:
        syncing = [_AT_ONCE.submit(sync, path) for path in paths]
    except RuntimeError:  # the interpreter is ending and starts no thread any more
        for path in paths:
            sync(path)
        return
    for one in syncing:
        one.result()


def sync_fragments(table: Path, fragments: Iterable[Any]) -> None:
    """Forces the data files of these Lance fragments and their folder to disk."""
    files = [table / "data" / file.path for fragment in fragments for file in fragment.files]
    sync_all([*files, table / "data"])


def sync_commit(table: Path, version: int, transaction: Any) -> None:
    """Forces a committed version of a table to disk: its manifest, its transaction and their folders."""
    # Lance counts down in the names of manifests, so that a listing begins with the newest
    manifests = [f"{2**64 - 1 - version:020}.manifest", f"{version}.manifest"]
    files = [table / "_versions" / name for name in manifests]
    files.append(table / "_transactions" / f"{transaction.read_version}-{transaction.uuid}.txn")
    folders = [table / "_versions", table / "_transactions"]
    sync_all([path for path in (*files, *folders) if path.exists()])


@contextmanager
def synced(table: Path) -> Iterator[None]:
    """Forces all files that the block adds to a table to disk when the block ends."""
    before = set(_files(table))
    yield
    new = [Path(file) for file in _files(table) if file not in before]
    sync_all([*new, *{file.parent for file in new}])


def _files(table: Path) -> Iterator[str]:
    # a server's table has thousands of files for minutes, and a `Path` for each takes ten times as long as the walk
    for folder, _, names in os.walk(table):
        yield from (f"{folder}/{name}" for name in names)
