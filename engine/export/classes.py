"""Names and folders of the exported classes."""

import unicodedata
from collections import Counter
from collections.abc import Iterable

from engine.export.contents import ClassKey

UNSAFE = frozenset('<>:"/\\|?*%')
"""Characters that a folder's name cannot have on some system, and the escape itself."""
RESERVED = frozenset(
    ["con", "prn", "aux", "nul", "__macosx", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))]
)
"""Names, in lower case and up to the first dot, that some system keeps for itself."""
MAX_BYTES = 240
"""Bytes of a folder's name; file systems allow 255."""


def label_names(classes: Iterable[ClassKey]) -> list[str]:
    """A name for each label, all different: the class's own, with the data set (and the index) where several classes share it."""
    keys = list(classes)
    names = Counter(key.class_name for key in keys)
    pairs = Counter((key.dataset, key.class_name) for key in keys)
    found = []
    for dataset, index, written in keys:
        name = " ".join(written.split()) or f"class {index}"  # one line each in classnames.txt
        if names[written] > 1:
            name = f"{name} ({dataset})" if pairs[dataset, written] == 1 else f"{name} ({dataset} {index})"
        found.append(name)
    while len(set(found)) < len(found):  # a class may be named like another's name with its data set
        counts = Counter(found)
        found = [f"{name} [{number}]" if counts[name] > 1 else name for number, name in enumerate(found)]
    return found


def folder_names(labels: Iterable[str]) -> list[str]:
    """A folder for each label, safe on every system and different in any case and in any form of its accents.

    What is unsafe is written as in a URL, `a/b` → `a%2Fb`, so that the name can be read back (`urllib.parse.unquote`).
    Raises ValueError for a name that is too long.
    """
    labels = list(labels)
    found: list[str] = []
    seen: set[str] = set()
    for label in labels:
        name = "".join(_escaped(character) for character in label)
        if name[-1:] in (".", " "):
            name = name[:-1] + _escape(name[-1])
        if name[:1] in (".", " ", "_") or name.partition(".")[0].casefold().rstrip() in RESERVED:
            name = _escape(name[0]) + name[1:]
        place = 0
        # the next character is written as a code too, until no other folder is alike and no other class has this name
        while _folded(name) in seen or (name != label and name in labels):
            assert place < len(label), "labels are different"
            name = "".join(map(_escape, label[: place + 1])) + "".join(map(_escaped, label[place + 1 :]))
            place += 1
        seen.add(_folded(name))
        if len(name.encode()) > MAX_BYTES:
            raise ValueError(
                f"class {label[:40]!r}… is too long for a folder's name; export with --format parquet or webdataset"
            )
        found.append(name)
    return found


def _escaped(character: str) -> str:
    return _escape(character) if character in UNSAFE or not character.isprintable() else character


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
