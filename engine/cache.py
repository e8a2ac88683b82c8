"""Results kept on disk under a hash of their inputs, so that nothing is computed twice."""

import json
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

_DAMAGED = (OSError, ValueError)
"""Raised for a file that is truncated, overwritten or not a cache entry."""


def cache_folder() -> Path:
    """Folder for reproducible files: `$IMAGEFOUNDRY_CACHE`, else `~/.cache/imagefoundry`."""
    return Path(os.environ.get("IMAGEFOUNDRY_CACHE") or Path.home() / ".cache" / "imagefoundry").expanduser()


def check_cache_folder() -> None:
    """Raises ValueError if the cache folder is not writable."""
    check_writable(cache_folder(), "the cache folder", "set IMAGEFOUNDRY_CACHE to another one")


def check_writable(folder: str | Path, name: str, remedy: str) -> None:
    """Raises ValueError, one sentence, if a folder is a file, or it or the folder above it cannot be written to; leaves nothing."""
    folder = Path(folder)
    above = next((each for each in (folder, *folder.absolute().parents) if os.path.lexists(each)), folder)
    if not above.is_dir():
        raise ValueError(f"{name} {folder} cannot be made, since {above} is no folder; {remedy}")
    try:  # permissions are not reliable on every file system, and root passes them all
        os.rmdir(tempfile.mkdtemp(dir=above))
    except OSError as error:
        raise ValueError(f"{name} {folder} cannot be written to ({error.strerror}); {remedy}") from None


def cached_value(
    name: str, inputs: Mapping[str, Any], compute: Callable[[], Any], *, packages: Sequence[str], edition: int
) -> Any:
    """The JSON value that `compute` returns for these inputs, computed once and then read from the cache.

    An entry is found again only if all of this is the same: `name`, `inputs`, the source text of `packages`, `edition`, and
    the version of torch, whose arithmetic may differ from one to the next. Entries are replaced at once, so two
    processes may write the same one. A damaged entry is computed again.

    Args:
        name: what is computed; also the folder of the entry.
        inputs: everything that the value depends on: arrays, bytes, strings, numbers, None, and mappings (in any order) and sequences of these.
        compute: returns a value of JSON's types (NaN and infinity are kept, a tuple becomes a list, a float keeps every bit).
        packages: dotted names of the packages that compute it, as `engine.evaluation`.
        edition: of the code outside `packages` that takes part; increase it with every change of that code.

    Raises:
        TypeError: an input or the value is of another type.
    """
    code = [edition, [source_hash(each) for each in packages], _torch_version()]
    path = cache_folder() / name / f"{digest([name, code, inputs])}.json"
    with suppress(*_DAMAGED):
        check, text = path.read_text("utf-8").split("\n", 1)
        if check == _hash(text.encode()):
            return json.loads(text)
    text = json.dumps(compute())
    _write(path, lambda partial: partial.write_text(f"{_hash(text.encode())}\n{text}", "utf-8"))
    return json.loads(text)


def cached_arrays(
    name: str, inputs: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]], *, edition: int
) -> dict[str, np.ndarray]:
    """As `cached_value`, of named arrays (no objects), for what is dear enough to outlive a new version of a library.

    The code that computes them counts by `edition` alone. All the arrays are the same bits each time.
    """
    path = cache_folder() / name / f"{digest([name, edition, inputs])}.npz"
    # a damaged file makes numpy's and zip's readers raise almost anything
    with suppress(Exception), np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}
    arrays = {key: np.asarray(value) for key, value in compute().items()}
    _write(path, lambda partial: np.savez(partial, **arrays))
    return arrays


def digest(value: Any) -> str:
    """Hash of arrays, bytes, strings, numbers, None, and mappings and sequences of these: equal for equal values of equal types.

    Raises:
        TypeError: the value is of another type.
    """
    hasher = blake2b(digest_size=16)
    _add(hasher, value)
    return hasher.hexdigest()


def _add(hasher: Any, value: Any) -> None:
    """Adds the value, with its type and its length before it, so that no two values read the same."""
    if isinstance(value, np.generic):  # before the numbers: a float64 is a float too
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        hasher.update(f"array {value.dtype.str} {value.shape};".encode())
        hasher.update(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
    elif isinstance(value, bytes):
        hasher.update(f"bytes {len(value)};".encode())
        hasher.update(value)
    elif value is None or isinstance(value, bool | int | float | str):
        text = repr(value).encode()
        hasher.update(f"{type(value).__name__} {len(text)};".encode())
        hasher.update(text)
    elif isinstance(value, Mapping):
        hasher.update(f"mapping {len(value)};".encode())
        for key in sorted(value):
            _add(hasher, key)
            _add(hasher, value[key])
    elif isinstance(value, Sequence):
        hasher.update(f"sequence {len(value)};".encode())
        for each in value:
            _add(hasher, each)
    else:
        raise TypeError(f"{type(value).__name__} has no hash here; give arrays, bytes, strings, numbers or None")


@cache
def source_hash(package: str) -> str:
    """Hash of the Python files of a package, those of its sub-packages left out."""
    sources = sorted(
        (each for each in files(package).iterdir() if each.name.endswith(".py")), key=lambda each: each.name
    )
    return digest([(each.name, each.read_bytes()) for each in sources])


@cache
def _torch_version() -> str:
    with suppress(PackageNotFoundError):
        return version("torch")  # from its metadata: importing it takes seconds
    return ""


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes beside `path` and moves the file over it. An unwritable folder only costs time in the next run."""
    partial = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
