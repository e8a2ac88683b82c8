"""The interface of a layout, and what the layouts share."""

import posixpath
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from engine.catalog.account import Left
from engine.catalog.folder import File, Folder

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_SUFFIXES = frozenset(
    [
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "apng",
        "webp",
        "bmp",
        "dib",
        "gif",
        "tif",
        "tiff",
        "avif",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
    ]  # engine.images.FORMATS
)
"""Suffixes of the images that are read, in lower case."""
UNREAD_SUFFIXES = frozenset(
    [
        "heic",
        "heif",
        "svg",
        "jp2",
        "j2k",
        "jpx",
        "jxl",
        "psd",
        "ico",
        "tga",
        "eps",
        "exr",
        "hdr",
        "raw",
        "cr2",
        "cr3",
        "nef",
        "arw",
        "dng",
        "orf",
        "rw2",
        "pdf",
    ]
)
"""Suffixes of images that are not read: refused by name."""
LISTS = frozenset(
    [
        "classnames.txt",
        "zeroshot_classification_templates.txt",
        "dataset_type.txt",
        "nshards.txt",
        "dataset_info.json",
        "dataset_infos.json",
        "dataset_dict.json",
        "state.json",
        "license",
        "licence",
        "readme",
        "readme.md",
        "readme.txt",
        "license.txt",
    ]
)
"""Files that describe a data set, in lower case."""
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
"""Files that file managers leave behind, in lower case."""
HELD_OUT = "held out for the other split"
"""Rule of the items of a folder without splits that belong to the split that was not asked for."""


class Sample(NamedTuple):
    """One image: where its bytes are, and what is known of it."""

    key: str
    """`FILE:OFFSET:SIZE:NAME`, enough to read the bytes again (`engine.catalog.corpus.read_images`)."""
    text: str
    """Class index, class name, multi-hot digits (one `0` or `1` per class) or caption, as the layout's `kind` says."""
    problem: str = ""
    """Why its bytes cannot be read, where the listing tells: it stays in the index, and a run has an error row of it."""


class Part(NamedTuple):
    """A piece of a split that is indexed, and kept in the cache, by itself: a shard, a table or a class's folder."""

    name: str
    """Path below the location."""
    size: int | None
    """Bytes."""
    stamp: str
    """Changes with the names, sizes and times of the files."""


class Layout(Protocol):
    """One way to lay out labelled images in a folder; made from the `Folder`, whose listing it goes by."""

    title: ClassVar[str]
    """Name in the plural, for people."""
    row_suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of files that `read_rows` reads; the bytes of all other images are read from the key's offset."""
    is_listing: ClassVar[bool]
    """Whether the listing tells everything, so that an index need not be kept in the cache."""
    folder: Folder

    def __init__(self, folder: Folder) -> None: ...

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether the folder has this layout."""
        ...

    @property
    def kind(self) -> str:
        """Texts of the samples: `index`, `name` or `multi_hot`."""
        ...

    def class_names(self) -> list[str]:
        """Class names that the layout itself holds, in the order of the classes; empty if only `classnames.txt` has them."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Splits there are, of `train`, `validation` and `test`; `("",)` if the folder has none, and a fifth is held out."""
        ...

    def parts(self, split: str) -> list[Part]:
        """Parts of one of `splits`. Raises ValueError if one of them is missing or broken."""
        ...

    def files_of(self, part: str) -> Sequence[str]:
        """Files that a part consists of."""
        ...

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every item of a part: a sample of the split that is asked for (`train` or `test`), or why it is none.

        `text_suffix`: the member beside a shard's image that is read, `cls`, `npy` or `txt`. Raises ValueError if the part is broken.
        """
        ...

    def read_rows(self, name: str, rows: Sequence[int]) -> "list[bytes | ValueError]":
        """Encoded images of the rows of a file of `row_suffixes`, each by itself an image or an error."""
        ...

    def left_out(self, file: File) -> Left:
        """Why a file that is in no part is not read, where `common_rule` does not tell."""
        ...

    def advice(self, split: str) -> str:
        """How to add a split that is missing, as the end of a sentence."""
        ...


def file_part(folder: Folder, name: str, kind: str) -> Part:
    """A file as a part of its split. Raises ValueError if it cannot be opened, since so many images hang on it."""
    file = folder.files[name]
    if file.problem:
        raise ValueError(f"{kind} {folder.location}/{name} is {file.problem}; copy it again")
    return Part(name, file.size, file.stamp)


def suffix_of(name: str) -> str:
    """Suffix in lower case, without its dot; empty if the base name has none."""
    stem, dot, suffix = posixpath.basename(name).rpartition(".")
    return suffix.lower() if dot and stem else ""


def picture_column(schema: "pa.Schema") -> str:
    """Column of encoded pictures that img2dataset wrote into a table, named by their format; empty if there is none."""
    for name in ("jpg", "png", "webp"):
        if name in schema.names and str(schema.field(name).type) in ("binary", "large_binary"):
            return name
    return ""


def is_image(name: str) -> bool:
    """Whether a name has the suffix of an image that is read."""
    return suffix_of(name) in IMAGE_SUFFIXES


def hidden_rule(name: str) -> str:
    """Rule that hides a file or a member by its path; empty if none does."""
    parts = [part for part in name.rstrip("/").split("/") if part not in ("", ".")]
    if "__MACOSX" in parts:
        return "an archive's leftovers of macOS (__MACOSX)"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if parts and parts[-1].lower() in SYSTEM_FILES:
        return "a file of the operating system"
    return ""


def common_rule(file: File) -> Left | None:
    """Why a file is not read, where every layout says the same."""
    if rule := hidden_rule(file.name):
        return Left("ignored", rule, file.name)
    if file.problem:
        return Left("refused", file.problem, file.name)
    if posixpath.basename(file.name).lower() in LISTS:
        return Left("ignored", "a list or a description", file.name)
    suffix = suffix_of(file.name)
    if suffix in UNREAD_SUFFIXES:
        return Left("refused", f".{suffix} is not read; convert it to JPEG or PNG", file.name)
    return None


def no_image(name: str) -> str:
    """Rule for a file that is no image by its suffix."""
    suffix = suffix_of(name)
    return f"no image (.{suffix})" if suffix and len(suffix) <= 8 else "no image (another suffix, or none)"


def held_out(number: int) -> bool:
    """Whether image `number` of a class is for testing, in a set that has no splits: every fifth, from the first."""
    return number % 5 == 0


def quoted(name: str) -> str:
    """A path as it stands in a key, whose parts colons divide."""
    return name.replace("%", "%25").replace(":", "%3A")


def unquoted(name: str) -> str:
    """The path of a key."""
    return name.replace("%3A", ":").replace("%25", "%")
