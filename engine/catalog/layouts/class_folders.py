"""A folder of images, one folder per class: `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, or `CLASS/*.jpg` alone."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar

from engine.catalog.account import Left
from engine.catalog.folder import File, Folder
from engine.catalog.layouts.layout import (
    HELD_OUT,
    Part,
    Sample,
    held_out,
    hidden_rule,
    is_image,
    no_image,
    quoted,
)
from engine.catalog.splits import split_named, split_within
from engine.names import plain_name

FEW = 0.1
"""Share of images that may lie beside folders of classes without being taken for a class's own."""


class ClassFolders:
    """Image files. Where there are no splits, every fifth image of a class (in the order of the names) is `test`.

    One folder that holds all the others is seen through. Images deeper in a class's folder belong to the class.
    """

    title: ClassVar[str] = "class folders"
    row_suffixes: ClassVar[tuple[str, ...]] = ()
    is_listing: ClassVar[bool] = True
    kind = "name"

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether there are images in folders."""
        return any("/" in name and is_image(name) and not hidden_rule(name) for name in folder.files)

    def class_names(self) -> list[str]:
        """Names of the class folders of all splits, sorted."""
        return sorted({part.rpartition("/")[2] for parts in self._classes.values() for part in parts})

    def splits(self) -> tuple[str, ...]:
        """Splits whose folders hold class folders."""
        return tuple(sorted(self._classes))

    def parts(self, split: str) -> list[Part]:
        """The class folders of a split."""
        return [self._part(name, files) for name, files in self._classes.get(split, {}).items()]

    def files_of(self, part: str) -> Sequence[str]:
        """Images of a class folder, sorted."""
        return next(parts[part] for parts in self._classes.values() if part in parts)

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every image of a class folder, sorted by name."""
        text = part.rpartition("/")[2]
        whole = "" not in self._classes
        for number, name in enumerate(self.files_of(part)):
            file = self.folder.files[name]
            if whole or held_out(number) == (split == "test"):
                yield Sample(f"{quoted(name)}:0:{file.size or 0}:", text, file.problem)
            else:
                yield Left("ignored", HELD_OUT, name)

    def read_rows(self, name: str, rows: Sequence[int]) -> list[bytes | ValueError]:
        """Never called: every image is a file."""
        raise AssertionError("class folders have no rows")

    def left_out(self, file: File) -> Left:
        """Files that are no images, and images without a class."""
        if not is_image(file.name):
            return Left("ignored", no_image(file.name), file.name)
        folders = [folder + "/" for several in self._split_folders[1].values() for folder in several]
        is_of_split = file.name.startswith(tuple(folders)) or any(map(split_named, file.name.split("/")[:-1]))
        if folders and not is_of_split:
            return Left("ignored", "outside the folders of the splits", file.name)
        return Left("refused", "an image in no class folder", file.name)

    def advice(self, split: str) -> str:
        """Where the images of a split belong."""
        return f"put its images into {split}/CLASS/"

    def _part(self, name: str, files: list[str]) -> Part:
        found = [self.folder.files[file] for file in files]
        digest = blake2b(repr([tuple(file) for file in found]).encode(), digest_size=8)
        return Part(name, sum(file.size or 0 for file in found), f"{len(files)} {digest.hexdigest()}")

    @cached_property
    def _images(self) -> list[str]:
        return [
            name
            for name, file in self.folder.files.items()
            if "/" in name and is_image(name) and not hidden_rule(name) and file.may_be_data
        ]

    @cached_property
    def _split_folders(self) -> tuple[str, dict[str, list[str]]]:
        """Folder that everything lies in (empty, or ending in `/`), and the folders of each split."""
        base = ""
        while True:
            tree = _children(self._images, base)
            if splits := _splits_among([child for child, is_deep in tree.items() if is_deep]):
                return base, {split: [base + child for child in several] for split, several in splits.items()}
            inner = [child for child, is_deep in tree.items() if is_deep and self._holds_splits(f"{base}{child}/")]
            alone = list(tree) if len(tree) == 1 and all(tree.values()) and not self._has_direct(base) else []
            if len(inner or alone) != 1:
                return base, {}
            base = f"{base}{(inner or alone)[0]}/"

    def _holds_splits(self, base: str) -> bool:
        splits = _splits_among([child for child, is_deep in _children(self._images, base).items() if is_deep])
        return len(splits) > 1

    def _has_direct(self, base: str) -> bool:
        return any(self._is_direct(name, base) for name in self._images)

    @staticmethod
    def _is_direct(name: str, base: str) -> bool:
        return name.startswith(base) and "/" not in name[len(base) :]

    @cached_property
    def _classes(self) -> dict[str, dict[str, list[str]]]:
        """Split (empty where there are none) → class folder → its images, sorted."""
        base, splits = self._split_folders
        if not splits:
            return {"": self._class_folders(base)}
        found: dict[str, dict[str, list[str]]] = {}
        for split, folders in splits.items():
            for folder in folders:
                inside = self._class_folders(_seen_through(self._images, folder + "/"))
                found.setdefault(split, {}).update(inside)
        return {split: classes for split, classes in found.items() if classes}

    def _class_folders(self, base: str) -> dict[str, list[str]]:
        """Class folder → its images, of those below a folder.

        Raises:
            ValueError: a class may be an outer or an inner folder.
        """
        below = [name for name in self._images if name.startswith(base) and not self._is_direct(name, base)]
        levels = self._levels(below, base)
        found: dict[str, list[str]] = {}
        for name in below:
            folders = name[len(base) :].split("/")[:-1]
            if len(folders) >= levels:
                found.setdefault(base + "/".join(folders[:levels]), []).append(name)
        return found

    def _levels(self, names: list[str], base: str) -> int:
        """Folders below `base` that lead to a class: 1, or 2 where groups of classes have a folder each."""
        inner: dict[str, set[str]] = {}
        num_direct = 0
        for name in names:
            outer, *rest = name[len(base) :].split("/")
            if len(rest) > 1:
                inner.setdefault(outer, set()).add(rest[0])
            else:
                num_direct += 1
        all_inner = [each for several in inner.values() for each in several]
        # folders that classes have alike, as `left` and `right`, or one each, are no classes
        is_alike = 2 * len(set(all_inner)) <= len(all_inner)
        if len(inner) < 2 or is_alike or max(map(len, inner.values())) < 2 or num_direct > FEW * len(names):
            return 1
        known = {plain_name(name) for name in self.folder.read_lines("classnames.txt")}
        fits = [
            level
            for level, there in ((1, list(inner)), (2, all_inner))
            if known and all(plain_name(each) in known for each in there)
        ]
        if len(fits) == 1:
            return fits[0]
        outer = min(inner)
        raise ValueError(
            f"{self.folder.location} holds folders within folders ({base}{outer}/{min(inner[outer])}/…), so a class may be the outer or "
            "the inner one; write the names of the classes into classnames.txt, one per line"
        )


def _children(names: list[str], base: str) -> dict[str, bool]:
    """Folders below `base` that hold images → whether one of them lies deeper than in the folder itself, and none in it."""
    direct: set[str] = set()
    deep: set[str] = set()
    for name in names:
        if name.startswith(base):
            child, *rest = name[len(base) :].split("/")
            if rest:
                (deep if len(rest) > 1 else direct).add(child)
    return {child: child in deep and child not in direct for child in sorted(direct | deep)}


def _seen_through(names: list[str], base: str) -> str:
    """The folder below `base` that holds several folders, or the images of one class."""
    while True:
        tree = _children(names, base)
        if len(tree) != 1 or not all(tree.values()) or any(ClassFolders._is_direct(name, base) for name in names):
            return base
        base = f"{base}{next(iter(tree))}/"


def _splits_among(folders: list[str]) -> dict[str, list[str]]:
    """Split → those of some folders that are named for it: `Training`, or else names as `seg_train` beside `seg_test`."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        if split := split_named(folder):
            found.setdefault(split, []).append(folder)
    if found:
        return found
    for folder in folders:
        with suppress(ValueError):  # a name of two splits is no split's
            if split := split_within(folder):
                found.setdefault(split, []).append(folder)
    return found if "train" in found and len(found) > 1 else {}
