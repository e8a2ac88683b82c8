"""One door to images, whatever the layout of the folder that holds them."""

from collections.abc import Sequence
from typing import TypeAlias

from engine.catalog.folder import IMAGE_SUFFIXES, Folder, unquoted
from engine.catalog.image_folder import ImageFolder
from engine.catalog.tables import SUFFIXES, ImageTables
from engine.catalog.webdataset import WebDataset

Split: TypeAlias = WebDataset | ImageFolder | ImageTables


def open_split(location: str, split: str) -> Split:
    """A split of a folder or URL: tar shards (`nshards.txt`), table files, or folders of images, by what is there.

    Raises:
        ValueError: there is nothing of the kind.
    """
    folder = Folder(location, split)
    if any(folder.exists(name, "nshards.txt") for name in dict.fromkeys((split, "train", "test"))):
        return WebDataset(location, split)
    names = list(folder.files())
    if any(name.endswith(SUFFIXES) for name in names):
        return ImageTables(location, split)
    if any("/" in name and name.rpartition(".")[2].lower() in IMAGE_SUFFIXES for name in names):
        return ImageFolder(location, split)
    raise ValueError(
        f"{location} holds no images (neither train/nshards.txt nor CLASS/*.jpg nor *.parquet); name another folder"
    )


def read_images(location: str, keys: Sequence[str]) -> list[bytes]:
    """Encoded bytes of the images with these keys (`Sample.key`), in their order; each file is opened once."""
    parsed = [key.split(":", 3) for key in keys]
    found: list[bytes] = [b""] * len(keys)
    places_in: dict[str, list[tuple[int, list[str]]]] = {}
    for number, parts in enumerate(parsed):
        places_in.setdefault(unquoted(parts[0]), []).append((number, parts))
    for name, places in places_in.items():
        if name.endswith(SUFFIXES):
            images = ImageTables(location, "").read_rows(name, [int(parts[1]) for _, parts in places])
            for (number, _), image in zip(places, images, strict=True):
                found[number] = image
            continue
        with Folder(location, "").open(name) as file:
            for number, (_, offset, size, _) in places:
                file.seek(int(offset))
                found[number] = file.read(int(size))
    return found
