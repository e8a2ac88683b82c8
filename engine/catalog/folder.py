"""A place that holds files: a folder on disk, the Hub (`hf://`, huggingface_hub's file system) or s3, all through fsspec."""

import posixpath
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any, NamedTuple

IMAGE_SUFFIXES = ("webp", "jpg", "jpeg", "png")


class Sample(NamedTuple):
    """One image: where its bytes are, and what is known of it."""

    key: str
    """`FILE:OFFSET:SIZE:NAME`, enough to read the bytes again (`engine.catalog.corpus.read_images`)."""
    text: str
    """Class index, multi-hot digits (one `0` or `1` a class) or caption."""


class Part(NamedTuple):
    """A piece of a split that is indexed, and kept in the cache, by itself: a shard, a table or a class's folder."""

    name: str
    """Path below the location."""
    size: int | None
    """Bytes."""
    stamp: str
    """Time of its last change, or what else the file system has to tell one version from another."""


@dataclass(frozen=True)
class Folder:
    """One split of a data set on disk or behind a URL."""

    location: str
    """Folder or URL."""
    split: str
    """`train` or `test`."""

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(self.location)
        return filesystem, root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether paths are those of this machine's disk."""
        return "file" in self._filesystem[0].protocol

    def path(self, *parts: str) -> str:
        """Path in the file system."""
        return posixpath.join(self._filesystem[1], *parts)

    def open(self, *parts: str) -> IO[bytes]:
        """A file of the data set, for reading."""
        return self._filesystem[0].open(self.path(*parts), "rb")

    def exists(self, *parts: str) -> bool:
        """Whether there is such a file or folder."""
        return self._filesystem[0].exists(self.path(*parts))

    def files(self, *parts: str) -> dict[str, dict[str, Any]]:
        """Every file below a folder, sorted: path below the location → what the file system says of it."""
        filesystem, root = self._filesystem
        found = filesystem.find(self.path(*parts), detail=True)
        return {name.removeprefix(root).lstrip("/"): found[name] for name in sorted(found)}

    def part(self, name: str, info: dict[str, Any] | None = None) -> Part:
        """A file as a part."""
        info = info or self._filesystem[0].info(self.path(name))
        stamp = info.get("mtime") or info.get("LastModified") or info.get("blob_id") or info.get("created") or ""
        return Part(name, info.get("size"), str(stamp))

    def read_lines(self, name: str) -> list[str]:
        """Lines of a text file of the data set, without empty ones."""
        with self.open(name) as file:
            return [line.strip() for line in file.read().decode("utf-8").splitlines() if line.strip()]


def split_names(split: str | None = None) -> tuple[str, ...]:
    """Folders that hold a split, the first that exists counts; all that may hold one, without a split."""
    names = {"train": ("train", "training"), "test": ("test", "validation", "val", "valid")}
    if split is None:
        return tuple(name for several in names.values() for name in several)
    return names.get(split, (split,))


def held_out(number: int) -> bool:
    """Whether image `number` of a class is for testing, in a set that has no splits: every fifth, from the first."""
    return number % 5 == 0


def quoted(name: str) -> str:
    """A path as it stands in a key, whose parts colons divide."""
    return name.replace("%", "%25").replace(":", "%3A")


def unquoted(name: str) -> str:
    """The path of a key."""
    return name.replace("%3A", ":").replace("%25", "%")
