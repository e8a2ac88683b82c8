"""The layout of `clip-benchmark/wds_*`: tar shards of `sNNNNNNN.{webp,cls}` (`.npy` for several labels, `.txt` for captions)."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from engine.catalog.account import Left, Verdict
from engine.catalog.folder import File, Folder, decode_text
from engine.catalog.layouts.layout import (
    HELD_OUT,
    UNREAD_SUFFIXES,
    Part,
    Sample,
    file_part,
    held_out,
    hidden_rule,
    is_image,
    quoted,
    suffix_of,
)
from engine.catalog.splits import split_of_path, split_within

COUNT = "nshards.txt"


class WebDataset:
    """Tar shards: `SPLIT/0.tar, 1.tar, …` as `SPLIT/nshards.txt` counts them, or all tars there are where nothing counts them.

    A member's key is its path up to the first dot of its base name, as webdataset has it.
    """

    title: ClassVar[str] = "webdataset shards"
    row_suffixes: ClassVar[tuple[str, ...]] = ()
    is_listing: ClassVar[bool] = False
    kind = "index"

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether shards are counted, or there are tars and neither images in folders nor tables that are not theirs."""
        names = [name for name in folder.files if not hidden_rule(name)]
        if any(name.rpartition("/")[2] == COUNT and name.count("/") <= 1 for name in names):
            return True
        tars = {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
        tables = {name.rpartition(".")[0] for name in names if name.endswith((".parquet", ".arrow"))}
        return bool(tars) and tables <= tars and not any("/" in name and is_image(name) for name in names)

    def class_names(self) -> list[str]:
        """None: `classnames.txt` has them."""
        return []

    @cached_property
    def _counted(self) -> dict[str, str]:
        """Split → its folder with `nshards.txt`; empty for the location itself."""
        found: dict[str, str] = {}
        for name in self.folder.files:
            parent, _, base = name.rpartition("/")
            if base == COUNT and "/" not in parent and not hidden_rule(name):
                found.setdefault(split_within(parent) if parent else "", parent)
        return found

    @cached_property
    def _tars(self) -> dict[str, list[str]]:
        """Split → all its tars, where no file counts them."""
        found: dict[str, list[str]] = {}
        for name in self.folder.files:
            if name.endswith(".tar") and not hidden_rule(name):
                found.setdefault(split_of_path(name), []).append(name)
        return found

    def splits(self) -> tuple[str, ...]:
        """Folders whose shards are counted, or the splits that the tars' names tell."""
        found = {split for split in (self._counted or self._tars) if split}
        return tuple(sorted(found)) or ("",)

    def parts(self, split: str) -> list[Part]:
        """The split's shards.

        Raises:
            ValueError: one of those that are counted is missing or cannot be opened, or the count is no number.
        """
        return [file_part(self.folder, name, "shard") for name in self._shards(split)]

    def _shards(self, split: str) -> list[str]:
        if not self._counted:
            return self._tars.get(split, [])
        parent = self._counted[split]
        below = f"{parent}/" if parent else ""
        lines = self.folder.read_lines(below + COUNT)
        if not lines or not (lines[0].isascii() and lines[0].isdigit()):
            raise ValueError(
                f"{self.folder.location}/{below}{COUNT} holds no number; write the count of shards into it"
            )
        names = [f"{below}{number}.tar" for number in range(int(lines[0]))]
        for name in names:
            if name not in self.folder.files:
                raise ValueError(
                    f"shard {self.folder.location}/{name} is missing ({len(names)} are listed); copy the data set again"
                )
        return names

    def files_of(self, part: str) -> Sequence[str]:
        """The shard."""
        return (part,)

    def left_out(self, file: File) -> Left:
        """Shards that are not counted, and files that are no shards."""
        if file.name.endswith(".tar"):
            parent = file.name.rpartition("/")[0]
            if parent in self._counted.values():
                return Left("refused", f"a shard beyond the count in {COUNT}", file.name)
            return Left("ignored", "a shard of no split", file.name)
        return Left("ignored", "no shard", file.name)

    def advice(self, split: str) -> str:
        """How shards belong to a split."""
        return f"put its shards into {split}/, with their count in {split}/{COUNT}"

    def read_rows(self, name: str, rows: Sequence[int]) -> list[bytes | ValueError]:
        """Never called: the bytes of an image stand in its shard as they are."""
        raise AssertionError("shards have no rows")

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every image of a shard, in its order, then what is left of its members.

        Raises:
            ValueError: the shard is no tar or is cut off.
        """
        shard = _Shard(part, text_suffix)
        try:
            with self.folder.open(part) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                end = file.seek(0, io.SEEK_END)
                file.seek(0)
                for member in tar:
                    if member.offset_data + (member.size if member.isfile() else 0) > end:
                        raise tarfile.ReadError("cut off inside a member")
                    if not member.isdir():
                        shard.add(tar, member)
                # tarfile ends silently at a cut between members, but a whole tar closes with two empty blocks
                if tar.offset + tarfile.BLOCKSIZE > end:
                    raise tarfile.ReadError("the end of the archive is missing")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"shard {self.folder.location}/{part} is broken ({error}); copy it again") from None
        whole = bool(self.splits()[0]) or text_suffix == "txt"
        seen: dict[str, int] = {}
        for item in shard.items():
            if whole or isinstance(item, Left):
                yield item
                continue
            number = seen.get(item.text, 0)
            seen[item.text] = number + 1
            yield item if held_out(number) == (split == "test") else Left("ignored", HELD_OUT, f"{part}: {item.key}")


class _Shard:
    """The members of one shard, brought together by their keys."""

    def __init__(self, part: str, text_suffix: str):
        self._part, self._text_suffix = part, text_suffix
        self._images: dict[str, tuple[str, str]] = {}
        self._texts: dict[str, tuple[str, str | ValueError]] = {}
        self._further: dict[str, list[tuple[str, str]]] = {}
        self._left: list[Left] = []

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Takes one member."""
        name = member.name.removeprefix("./")
        if rule := hidden_rule(name):
            self._leave("ignored", rule, name)
            return
        if not member.isreg():
            self._leave("refused", "a link or a device in a shard", name)
            return
        try:
            name.encode()
        except UnicodeEncodeError:
            safe = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            self._leave("refused", "its name is not UTF-8", safe)
            return
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = folder + slash + stem, suffix.lower()
        if suffix == self._text_suffix:
            content = tar.extractfile(member)
            assert content is not None
            self._add_text(key, name, content.read())
        elif is_image(f"x.{suffix}") and "." not in suffix:
            if key in self._images:
                self._leave("refused", "its key is given twice in the shard; the first counts", name)
            else:
                self._images[key] = name, f"{quoted(self._part)}:{member.offset_data}:{member.size}:{stem}"
        elif is_image(name):
            self._further.setdefault(key, []).append((name, suffix))
        elif suffix_of(name) in UNREAD_SUFFIXES:
            self._leave("refused", f".{suffix_of(name)} is not read; convert it to JPEG or PNG", name)
        else:
            self._leave("ignored", f"another member (.{suffix[:16]})" if suffix else "another member", name)

    def _add_text(self, key: str, name: str, content: bytes) -> None:
        if key in self._texts:
            self._leave("refused", "its key is given twice in the shard; the first counts", name)
            return
        try:
            self._texts[key] = name, _text(content, self._text_suffix)
        except ValueError as error:
            self._texts[key] = name, error

    def _leave(self, verdict: Verdict, reason: str, name: str) -> None:
        self._left.append(Left(verdict, reason, f"{self._part}: {name}"))

    def items(self) -> Iterator[Sample | Left]:
        """Samples in the order of the images, then the rest. A label that is used up by its image is no item of its own."""
        for key, (name, place) in self._images.items():
            _, text = self._texts.pop(key, ("", None))
            if text is None:
                self._leave("refused", f"an image without a .{self._text_suffix} beside it", name)
            elif isinstance(text, ValueError):
                reason, *value = text.args
                self._leave("refused", reason, f"{name} ({value[0]!r})" if value else name)
            else:
                yield Sample(place, text)
        for name, _ in self._texts.values():
            self._leave("refused", f"a .{self._text_suffix} without an image beside it", name)
        for key, names in self._further.items():
            for name, suffix in names:
                if key in self._images:
                    self._leave("ignored", f"a further image of its sample (.{suffix[-16:]})", name)
                else:
                    self._leave("refused", "a dot in its name before the suffix, where its key ends; rename it", name)
        yield from self._left


def _text(content: bytes, suffix: str) -> str:
    """Class index, multi-hot digits or caption. Raises ValueError of the fault, in equal words for equal ones, and the value."""
    if suffix == "npy":
        try:
            labels = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception:  # numpy's parser of headers raises of many kinds
            raise ValueError("its .npy is no array of labels; write it again") from None
        if not isinstance(labels, np.ndarray) or labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
            raise ValueError("its .npy is not multi-hot; give one 0 or 1 for each class")
        return "".join("1" if label else "0" for label in labels)
    text = decode_text(content, f"its .{suffix}").strip()
    if suffix == "cls" and not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("its label is not a class index; write a number from 0 into every .cls", text[:40])
    return text
