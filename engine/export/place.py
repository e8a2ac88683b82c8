"""The folder or the s3:// prefix that an export is written to: complete or not there."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DESCRIBES = ("croissant.json", "README.md")
"""Files that are uploaded last, so that readers find no card before what it describes."""


def check_output(output: str | Path) -> None:
    """Raises ValueError if the output is a URL of another kind, a file, or a folder or prefix that holds something."""
    if isinstance(output, str):
        system, path = _system(output)
        with _as_value_error(output):
            taken = bool(system.find(path))
        if taken:
            raise ValueError(f"output {output} holds objects; give a new prefix, or remove them first")
        return
    if ":/" in str(output):
        raise ValueError(f"output {output} is a URL as a path, which has lost a slash; give the URL as a string")
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        kind = "holds files" if output.is_dir() else "is a file"
        raise ValueError(f"output {output} exists and {kind}; give a new folder, or remove it first")


@contextmanager
def written_whole(output: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` when the block ends, and is removed if it fails.

    For a folder it is beside it, and is renamed. For s3:// it is where temporary files go (`TMPDIR`), and is uploaded, the card last; what was
    uploaded is removed if that fails. Raises ValueError if the place cannot be written to, or is taken meanwhile.
    """
    check_output(output)
    parent = None if isinstance(output, str) else output.absolute().parent
    try:
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))
    except OSError as error:
        raise ValueError(
            f"cannot write to {parent or tempfile.gettempdir()} ({error.strerror}); give another output"
        ) from None
    try:
        yield folder
        check_output(output)
        if isinstance(output, str):
            _upload(folder, output)
            return
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, output.absolute())
    except OSError as error:
        raise ValueError(
            f"cannot write {output} ({error.strerror or error}); free some space, or give another output"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: Path, output: str) -> None:
    """Uploads the files of a folder, the ones that describe the others last; removes all of them if one fails."""
    system, path = _system(output)
    names = sorted(
        (one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()),
        key=lambda name: (name in DESCRIBES, name),
    )
    print(f"export: uploading {len(names):,} files to {output}", file=sys.stderr, flush=True)
    with _as_value_error(output):
        try:
            for name in names:
                system.put_file(str(folder / name), f"{path}/{name}")
        except BaseException:
            with suppress(Exception):
                system.rm(path, recursive=True)
            raise


def _system(output: str) -> tuple[Any, str]:
    """fsspec's client of an s3:// URL, and the path in it."""
    if not output.startswith("s3://"):
        raise ValueError(
            f"output {output} is a URL that exports cannot be written to; give a folder or s3://bucket/prefix"
        )
    try:
        from fsspec.core import url_to_fs

        # a new client: a cached one may belong to credentials of before
        system, path = url_to_fs(output.rstrip("/"), skip_instance_cache=True, use_listings_cache=False)
    except ImportError:
        raise ValueError("exporting to s3:// needs the s3 extra: pip install 'imagefoundry[s3]'") from None
    return system, path


@contextmanager
def _as_value_error(output: str) -> Iterator[None]:
    """Turns what the store's client raises into one sentence."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # botocore's and s3fs' own, without a common base
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(
            f"cannot use {output} ({text}); check the bucket, its rights and the AWS_* variables"
        ) from error


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
