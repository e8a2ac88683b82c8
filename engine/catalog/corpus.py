"""Opens images whatever the layout of the folder that holds them."""

from collections.abc import Sequence

from engine.catalog.folder import Folder
from engine.catalog.layouts import LAYOUTS, Layout
from engine.catalog.layouts.layout import unquoted


def open_layout(location: str) -> Layout:
    """The layout of a folder or URL, by what is there.

    Raises:
        ValueError: the place is out of reach, or holds nothing of the kind.
    """
    folder = Folder(location)
    for layout in LAYOUTS:
        if layout.recognises(folder):
            return layout(folder)
    raise ValueError(
        f"{location} holds no images in a layout that is known (shards, tables or CLASS/*.jpg); name another folder"
    )


def key_name(key: str) -> str:
    """The file and the item that a key stands for, for people: `train/0.tar: s0000003`, `train.parquet: row 5`; an address is its own."""
    if "://" in key:  # of a picture that was fetched; no other key has it, since colons of names are quoted
        return key
    file, offset, size, name = _parsed(key)
    if name:
        return f"{file}: {name}"
    return f"{file}: row {offset}" if file.endswith(_row_suffixes()) and size == "0" else file


def read_images(location: str, keys: Sequence[str]) -> list[bytes]:
    """Encoded bytes of the images with these keys (`Sample.key`), in their order; each file is opened once.

    Raises:
        ValueError: one of them cannot be read.
    """
    found = []
    for key, data in zip(keys, read_each(location, keys), strict=True):
        if isinstance(data, ValueError):
            raise ValueError(f"{key_name(key)}: {data}")
        found.append(data)
    return found


def read_each(location: str, keys: Sequence[str]) -> list[bytes | ValueError]:
    """As `read_images`, each image by itself its bytes or the error why it has none, in equal words for equal faults."""
    folder = Folder(location)
    found: list[bytes | ValueError] = [ValueError("its file is of no known layout")] * len(keys)
    places_in: dict[str, list[tuple[int, list[str]]]] = {}
    for number, key in enumerate(keys):
        parts = _parsed(key)
        places_in.setdefault(parts[0], []).append((number, parts))
    for name, places in places_in.items():
        for (number, _), data in zip(places, _read_file(folder, name, [parts for _, parts in places]), strict=True):
            found[number] = data
    return found


def _read_file(folder: Folder, name: str, places: list[list[str]]) -> "list[bytes | ValueError]":
    try:
        for layout in LAYOUTS:
            if name.endswith(layout.row_suffixes or "\0"):
                return layout(folder).read_rows(name, [int(offset) for _, offset, _, _ in places])
        read: list[bytes | ValueError] = []
        with folder.open(name) as file:
            for _, offset, size, _ in places:
                file.seek(int(offset))
                # a file system that told no size at the listing has its files read whole
                data = file.read(int(size)) if int(size) else b"" if int(offset) else file.read()
                read.append(data if len(data) >= int(size) else ValueError("its file is shorter than it was"))
        return read
    except FileNotFoundError:
        return [ValueError("the file cannot be read (it is not there)")] * len(places)
    except Exception as error:  # of a file system's library, which may be any; the other files are read all the same
        if len(places) > 1:
            return [data for place in places for data in _read_file(folder, name, [place])]
        text = getattr(error, "strerror", None) or next(iter(str(error).strip().splitlines()), type(error).__name__)
        return [ValueError(f"the file cannot be read ({text[:200]})")]


def _parsed(key: str) -> list[str]:
    file, *rest = key.split(":", 3)
    return [unquoted(file), *rest]


def _row_suffixes() -> tuple[str, ...]:
    return tuple(suffix for layout in LAYOUTS for suffix in layout.row_suffixes)
