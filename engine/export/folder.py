"""Image files: `SPLIT/CLASS/ID.SUFFIX`, and one line of JSON per image in `recipes.jsonl`.

torchvision's ImageFolder, `datasets`' imagefolder and our own `engine.catalog.layouts.class_folders` read them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from engine.export.rows import COLUMNS, Rows, Written, to_json

LABELS = "metadata.jsonl"
"""The labels of images that have several, as `datasets` reads them."""
RECIPES = "recipes.jsonl"
"""Not `metadata.jsonl`, for which `datasets` would leave out the labels that the folders are."""


class FolderWriter:
    """Writes one file per image; `folders` has the folder of each label.

    Where images have several labels, `several` has their names, all images of a split are in one folder, and its `metadata.jsonl` has
    the names of each image's labels.
    """

    def __init__(self, folder: Path, folders: Sequence[str], several: Sequence[str] = ()) -> None:
        self._folder, self._folders, self._several = folder, folders, several
        self._made: set[str] = set()
        self._lists: dict[str, IO[bytes]] = {}
        self._recipes: IO[bytes] = open(folder / RECIPES, "wb")  # noqa: SIM115  (closed by finish)
        self._num_rows: Counter[str] = Counter()
        self._num_bytes: Counter[str] = Counter()

    def add(self, rows: Rows) -> None:
        """Adds rows of one split."""
        columns = rows.table.select(COLUMNS.names).to_pylist()
        for one, image, suffix, labels, row in zip(
            rows.ids, rows.images, rows.suffixes, rows.labels, columns, strict=True
        ):
            place = rows.split if self._several else f"{rows.split}/{self._folders[labels[0]]}"
            if place not in self._made:
                (self._folder / place).mkdir(parents=True, exist_ok=True)
                self._made.add(place)
            name = f"{place}/{one}.{suffix}"
            if self._several:
                self._list(rows.split, f"{one}.{suffix}", labels)
            (self._folder / name).write_bytes(image)
            self._recipes.write(to_json({"file_name": name, "split": rows.split} | row) + b"\n")
            self._num_rows[rows.split] += 1
            self._num_bytes[rows.split] += len(image)

    def _list(self, split: str, name: str, labels: list[int]) -> None:
        """Adds a line to the split's list of labels."""
        if split not in self._lists:
            self._lists[split] = open(self._folder / split / LABELS, "wb")  # noqa: SIM115  (closed by finish)
        names = [self._several[label] for label in labels]
        self._lists[split].write(to_json({"file_name": name, "labels": names}) + b"\n")

    def finish(self) -> list[Written]:
        """Closes the lists of recipes and labels."""
        for file in (self._recipes, *self._lists.values()):
            file.close()
        return [Written(split, rows, self._num_bytes[split], ()) for split, rows in self._num_rows.items()]
