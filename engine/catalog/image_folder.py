"""A folder of images, one folder a class: `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, or `CLASS/*.jpg` alone."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from engine.catalog.folder import IMAGE_SUFFIXES, Folder, Part, Sample, held_out, split_names


class ImageFolder(Folder):
    """One split of image files. Where there are no splits, every fifth image of a class (in the order of the names) is `test`."""

    kind = "name"
    """A sample's text is its class's folder."""

    @cached_property
    def _images(self) -> dict[str, dict[str, Any]]:
        return {
            name: info
            for name, info in self.files().items()
            if "/" in name and name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        }

    @cached_property
    def _splits(self) -> set[str]:
        """Split folders there are."""
        return {name.partition("/")[0] for name in self._images if name.count("/") > 1} & set(split_names())

    def _class_of(self, name: str) -> str:
        return name.split("/")[1 if self._splits else 0]

    def class_names(self) -> list[str]:
        """Class folders of all splits, sorted."""
        inside = [name for name in self._images if not self._splits or name.partition("/")[0] in self._splits]
        return sorted({self._class_of(name) for name in inside})

    def parts(self) -> list[Part]:
        """The class folders of the split.

        Raises:
            ValueError: the split is missing.
        """
        folder = next((name for name in split_names(self.split) if name in self._splits), None)
        if folder is None and (self._splits or self.split not in ("train", "test")):
            raise ValueError(
                f"{self.location} has no split '{self.split}' (there is {', '.join(sorted(self._splits)) or 'none'}); "
                f"put its images into {self.split}/CLASS/"
            )
        prefix = f"{folder}/" if folder else ""
        parts = []
        for class_folder in self.class_names():
            files = self._of(f"{prefix}{class_folder}")
            stamps = [self.part(name, self._images[name]).stamp for name in files]
            size = sum(self._images[name].get("size") or 0 for name in files)
            if files:
                parts.append(Part(f"{prefix}{class_folder}", size, f"{len(files)} {max(stamps)}"))
        return parts

    def _of(self, part: str) -> list[str]:
        return [name for name in self._images if name.startswith(f"{part}/")]

    def samples(self, part: str, text_suffix: str = "") -> Iterator[Sample]:
        """Every image of a class folder that belongs to the split, sorted by name."""
        for number, name in enumerate(self._of(part)):
            if self._splits or held_out(number) == (self.split == "test"):
                size = self._images[name].get("size") or 0
                yield Sample(f"{name.replace('%', '%25').replace(':', '%3A')}:0:{size}:", self._class_of(name))
