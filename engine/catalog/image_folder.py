"""A folder of images, one folder a class: `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, or `CLASS/*.jpg` alone."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from engine.catalog.folder import IMAGE_SUFFIXES, Folder, Part, Sample, held_out, quoted, split_names


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

    @cached_property
    def _class_folders(self) -> dict[str, list[str]]:
        """Class folder (below its split, if there are splits) → its images, sorted."""
        found: dict[str, list[str]] = {}
        for name in self._images:
            folders = name.split("/")[:-1]
            if not self._splits:
                found.setdefault(folders[0], []).append(name)
            elif folders[0] in self._splits and len(folders) > 1:
                found.setdefault("/".join(folders[:2]), []).append(name)
        return found

    def class_names(self) -> list[str]:
        """Class folders of all splits, sorted."""
        return sorted({part.rpartition("/")[2] for part in self._class_folders})

    def parts(self) -> list[Part]:
        """The class folders of the split.

        Raises:
            ValueError: the split is missing.
        """
        split = next((name for name in split_names(self.split) if name in self._splits), "")
        if not split and (self._splits or self.split not in ("train", "test")):
            raise ValueError(
                f"{self.location} has no split '{self.split}' (there is {', '.join(sorted(self._splits)) or 'none'}); "
                f"put its images into {self.split}/CLASS/"
            )
        parts = []
        for part, names in self._class_folders.items():
            if part.startswith(f"{split}/") or not split:
                stamps = [self.part(name, self._images[name]).stamp for name in names]
                size = sum(self._images[name].get("size") or 0 for name in names)
                parts.append(Part(part, size, f"{len(names)} {max(stamps)}"))
        return parts

    def samples(self, part: str, text_suffix: str = "") -> Iterator[Sample]:
        """Every image of a class folder that belongs to the split, sorted by name."""
        class_folder = part.rpartition("/")[2]
        for number, name in enumerate(self._class_folders[part]):
            if self._splits or held_out(number) == (self.split == "test"):
                size = self._images[name].get("size") or 0
                yield Sample(f"{quoted(name)}:0:{size}:", class_folder)
