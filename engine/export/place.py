"""The folder that an export is written to: complete or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(output: Path) -> None:
    """Raises ValueError if the output is a URL, a file, or a folder that holds something."""
    if "://" in str(output) or ":/" in str(output):
        raise ValueError(f"output {output} is a URL; export to a folder of this machine, and copy it from there")
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        kind = "holds files" if output.is_dir() else "is a file"
        raise ValueError(f"output {output} exists and {kind}; give a new folder, or remove it first")


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place when the block ends, and is removed if it fails.

    Raises ValueError if the place cannot be written to, or is taken meanwhile.
    """
    check_output(output)
    output = output.absolute()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise ValueError(f"cannot write to {output.parent} ({error.strerror}); give another output") from None
    try:
        yield folder
        check_output(output)
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, output)
    except OSError as error:
        raise ValueError(
            f"cannot write {output} ({error.strerror or error}); free some space, or give another output"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
