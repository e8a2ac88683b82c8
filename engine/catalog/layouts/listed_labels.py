"""Images with several labels in one folder per split: `train/ID.png`, and their labels in `train/metadata.jsonl`."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

from engine.catalog.account import Left
from engine.catalog.folder import File, Folder, decode_text
from engine.catalog.layouts.layout import Part, Sample, file_part, hidden_rule, is_image, no_image, quoted
from engine.catalog.splits import split_named

LIST = "metadata.jsonl"


class ListedLabels:
    """Folders as `datasets`' imagefolder reads them: a line per image with its `file_name` and its `labels`, names of `classnames.txt`.

    `dataset_type.txt` says `multilabel`.
    """

    title: ClassVar[str] = "image folders with metadata.jsonl"
    row_suffixes: ClassVar[tuple[str, ...]] = ()
    is_listing: ClassVar[bool] = False
    kind = "multi_hot"

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def recognises(cls, folder: Folder) -> bool:
        """Whether images have several labels and a split's folder has a list of them."""
        lists = [name for name in folder.files if _split_of_list(name)]
        return bool(lists) and folder.read_lines("dataset_type.txt") == ["multilabel"]

    def class_names(self) -> list[str]:
        """Lines of `classnames.txt`."""
        return self.folder.read_lines("classnames.txt", numbered=True)

    def splits(self) -> tuple[str, ...]:
        """Splits whose folders have a list."""
        return tuple(sorted({split for name in self.folder.files if (split := _split_of_list(name))}))

    def parts(self, split: str) -> list[Part]:
        """The split's list, with the images beside it. Raises ValueError if it cannot be opened."""
        return [self._part(name) for name in self.folder.files if _split_of_list(name) == split]

    def _part(self, name: str) -> Part:
        part = file_part(self.folder, name, "list")
        files = [self.folder.files[one] for one in self.files_of(name)]
        digest = blake2b(repr([tuple(file) for file in files]).encode(), digest_size=8)
        return part._replace(size=sum(file.size or 0 for file in files), stamp=f"{len(files)} {digest.hexdigest()}")

    def files_of(self, part: str) -> Sequence[str]:
        """The list, and the images beside it."""
        place = part.removesuffix(LIST)
        return [part, *(name for name in self.folder.files if name.startswith(place) and is_image(name))]

    def samples(self, part: str, split: str, text_suffix: str) -> Iterator[Sample | Left]:
        """Every line of a list, and the images that no line names."""
        place, known = part.removesuffix(LIST), {name: number for number, name in enumerate(self.class_names())}
        with self.folder.open(part) as file:
            lines = decode_text(file.read(), f"{self.folder.location}/{part}").splitlines()
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            row = _parsed(line)
            name = f"{place}{row.get('file_name')}"
            found = self.folder.files.get(name)
            if found is None or not is_image(name) or name in seen:
                reason = "a line of an image that is listed before" if name in seen else "a line without an image"
                yield Left("refused", reason, f"{part}: line {number}")
                continue
            seen.add(name)
            labels = row.get("labels")
            if not isinstance(labels, list) or not all(isinstance(one, str) and one in known for one in labels):
                yield Left("refused", "its labels are no list of names of classnames.txt", f"{name} ({labels!r:.40})")
                continue
            shown = {known[one] for one in labels}
            text = "".join("01"[label in shown] for label in range(len(known)))
            yield Sample(f"{quoted(name)}:0:{found.size or 0}:", text, found.problem)
        for name in self.files_of(part)[1:]:
            if name not in seen:
                yield Left("refused", f"an image without a line in {LIST}", name)

    def read_rows(self, name: str, rows: Sequence[int]) -> list[bytes | ValueError]:
        """Never called: every image is a file."""
        raise AssertionError("image folders have no rows")

    def left_out(self, file: File) -> Left:
        """Files that are no images, and images outside the splits."""
        reason = "an image outside the folders of the splits" if is_image(file.name) else no_image(file.name)
        return Left("ignored", reason, file.name)

    def advice(self, split: str) -> str:
        """Where the images of a split belong."""
        return f"put its images and their {LIST} into {split}/"


def _split_of_list(name: str) -> str:
    """Split of a list of labels; empty for another file."""
    folder, _, base = name.rpartition("/")
    return split_named(folder) if base == LIST and "/" not in folder and not hidden_rule(name) else ""


def _parsed(line: str) -> dict[str, Any]:
    """A line's object; empty if it has none."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
