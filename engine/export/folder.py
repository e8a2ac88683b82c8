"""Image files: `SPLIT/CLASS/ID.SUFFIX`, and one line of JSON per image in `recipes.jsonl`.

torchvision's ImageFolder, `datasets`' imagefolder and our own `engine.catalog.layouts.class_folders` read them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from engine.export.rows import COLUMNS, Rows, Written, to_json

RECIPES = "recipes.jsonl"
"""Not `metadata.jsonl`, for which `datasets` would leave out the labels that the folders are."""


class FolderWriter:
    """Writes one file per image; `folders` has the folder of each label."""

    def __init__(self, folder: Path, folders: Sequence[str]) -> None:
        self._folder, self._folders = folder, folders
        self._made: set[tuple[str, int]] = set()
        self._recipes: IO[bytes] = open(folder / RECIPES, "wb")  # noqa: SIM115  (closed by finish)
        self._num_rows: Counter[str] = Counter()
        self._num_bytes: Counter[str] = Counter()

    def add(self, rows: Rows) -> None:
        """Adds rows of one split."""
        columns = rows.table.select(COLUMNS.names).to_pylist()
        for one, image, suffix, label, row in zip(
            rows.ids, rows.images, rows.suffixes, rows.labels, columns, strict=True
        ):
            place = f"{rows.split}/{self._folders[label]}"
            if (rows.split, label) not in self._made:
                (self._folder / place).mkdir(parents=True, exist_ok=True)
                self._made.add((rows.split, label))
            name = f"{place}/{one}.{suffix}"
            (self._folder / name).write_bytes(image)
            self._recipes.write(to_json({"file_name": name, "split": rows.split} | row) + b"\n")
            self._num_rows[rows.split] += 1
            self._num_bytes[rows.split] += len(image)

    def finish(self) -> list[Written]:
        """Closes the list of recipes."""
        self._recipes.close()
        return [Written(split, rows, self._num_bytes[split], ()) for split, rows in self._num_rows.items()]
