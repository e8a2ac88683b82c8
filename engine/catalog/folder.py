"""A place that holds files: a folder on disk, the Hub (`hf://`, huggingface_hub's file system) or s3, all through fsspec."""

import codecs
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

DANGLING = "a link to nothing"
UNREADABLE = "it cannot be read"
MAX_LINKS = 3
"""Links to folders that one path may pass; more are a maze."""
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class File(NamedTuple):
    """One file, or what stands in the place of one."""

    name: str
    """Path below the location; a folder that cannot be entered ends in `/`."""
    size: int | None
    """Bytes, where the file system tells."""
    stamp: str
    """Time of its last change, or what else the file system has to tell one version from another."""
    problem: str = ""
    """Why it cannot be opened."""

    @property
    def may_be_data(self) -> bool:
        """Whether it can be opened, or stands where a file should be, so that its loss is one of an item."""
        return self.problem in ("", DANGLING) or self.problem.startswith(UNREADABLE)


@dataclass(frozen=True)
class Folder:
    """The files of a data set, listed once; a new `Folder` looks again."""

    location: str
    """Folder or URL."""

    @property
    def is_local(self) -> bool:
        """Whether paths are those of this machine's disk."""
        return "://" not in self.location or self.location.startswith("file://")

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        with self._told():
            filesystem, root = fsspec.core.url_to_fs(self.location)
        return filesystem, root.rstrip("/")

    def path(self, *parts: str) -> str:
        """Path in the file system."""
        # a local path never goes through fsspec, which reads `::` in a name as a chain of file systems
        root = self.location.removeprefix("file://") if self.is_local else self._filesystem[1]
        return posixpath.join(root, *parts)

    def open(self, *parts: str) -> IO[bytes]:
        """A file of the data set, for reading."""
        if self.is_local:
            return open(self.path(*parts), "rb")
        stream: IO[bytes] = self._filesystem[0].open(self.path(*parts), "rb")
        return stream

    @cached_property
    def files(self) -> dict[str, File]:
        """Every file by its path below the location, sorted; links to folders are followed.

        Raises:
            ValueError: the place is out of reach, or no folder; one sentence.
        """
        with self._told():
            if self.is_local:
                found = list(_walk(Path(self.path())))
            else:
                filesystem, root = self._filesystem
                listing = filesystem.find(root, detail=True)
                found = [_remote(name.removeprefix(root).lstrip("/"), info) for name, info in listing.items()]
        return {file.name: file for file in sorted(found)}

    def read_lines(self, name: str, *, numbered: bool = False) -> list[str]:
        """Lines of a text file that are not empty; none where there is no such file.

        Raises:
            ValueError: the file is no text, or the lines are `numbered` and one within is empty, which would shift those after it.
        """
        if name not in self.files or self.files[name].problem:
            return []
        with self._told(), self.open(name) as file:
            lines = [line.strip() for line in decode_text(file.read(), f"{self.location}/{name}").splitlines()]
        if not numbered:
            return [line for line in lines if line]
        while lines and not lines[-1]:
            lines.pop()
        if "" in lines:
            raise ValueError(f"{self.location}/{name}: line {lines.index('') + 1} is empty; remove it, or fill it in")
        return lines

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turns a remote file system's error, of whatever library, into one sentence."""
        try:
            yield
        except ValueError:
            raise
        except Exception as error:
            text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            remedy = "check the path" if "://" not in self.location else "check the address, the network and the access"
            raise ValueError(f"{self.location} cannot be read ({text[:200]}); {remedy}") from error


def decode_text(data: bytes, name: str) -> str:
    """Text of UTF-8 bytes, or of UTF-16 and UTF-32 that begin with a byte order mark.

    Raises:
        ValueError: the bytes are something else; it names the file.
    """
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{name} is no UTF-8 text; save it as UTF-8")
    return text


def _walk(root: Path) -> Iterator[File]:
    """Files below a folder. A link back to a folder above itself, or what cannot be opened, is a file with a problem."""
    here = root.stat()
    if not stat.S_ISDIR(here.st_mode):
        raise NotADirectoryError("it is no folder")
    waiting: list[tuple[str, str, frozenset[tuple[int, int]], int]] = [
        (str(root), "", frozenset({(here.st_dev, here.st_ino)}), 0)
    ]
    while waiting:
        path, below, above, links = waiting.pop()
        try:
            with os.scandir(path) as entries:
                found = list(entries)
        except OSError as error:
            if not below:
                raise
            yield File(below, None, "", f"the folder cannot be listed ({error.strerror})")
            continue
        for entry in found:
            name = below + entry.name
            try:
                name.encode()
            except UnicodeEncodeError:
                yield File(os.fsencode(name).decode("utf-8", "backslashreplace"), None, "", "its name is not UTF-8")
                continue
            try:
                info = entry.stat()
            except OSError as error:
                problem = DANGLING if entry.is_symlink() else f"{UNREADABLE} ({error.strerror})"
                yield File(name, 0, "", problem)
                continue
            if not stat.S_ISDIR(info.st_mode):
                problem = "" if stat.S_ISREG(info.st_mode) else "no regular file"
                yield File(name, info.st_size, str(info.st_mtime_ns), problem)
                continue
            identity, passed = (info.st_dev, info.st_ino), links + entry.is_symlink()
            if identity in above:
                yield File(name + "/", None, "", "a link back to a folder above it")
            elif passed > MAX_LINKS:
                yield File(name + "/", None, "", f"a link beyond {MAX_LINKS} others")
            else:
                waiting.append((entry.path, name + "/", above | {identity}, passed))


def _remote(name: str, info: dict[str, Any]) -> File:
    stamp = info.get("mtime") or info.get("LastModified") or info.get("blob_id") or info.get("created") or ""
    return File(name, info.get("size"), str(stamp))
