"""Labels of images as numbers: class indices as they stand, names by the class names, digits of several labels."""

import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np

from engine.catalog.wordnet import class_of_id, ids_of, name_of_id
from engine.names import plain_name, unknown_name


def display_names(raw: Sequence[str]) -> list[str]:
    """Class names of folders, with blanks for underscores; where that would make two of them equal, they stay as they are.

    Where every folder has a WordNet id of ImageNet, the names are ImageNet's.
    """
    shown = [name.replace("_", " ").strip() or name for name in raw]
    if raw and all(map(name_of_id, raw)):
        shown = [name_of_id(name) for name in raw]
    return [name if shown.count(name) == 1 else own for name, own in zip(shown, raw, strict=True)]


def find_labels(
    kind: str, texts: np.ndarray, class_names: tuple[str, ...], location: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of `N` texts of a kind, `[N] int64` or `[N, C] int64` of 0 and 1, and `[N] bool` whether each fits the class names.

    Raises:
        ValueError: a name that is no class's, or more than one's.
    """
    if kind == "multi_hot":
        return _multi_hot(texts, len(class_names))
    places: dict[str, int] = {}
    inverse = np.array([places.setdefault(str(text), len(places)) for text in texts], np.int64)
    found = list(places)
    if kind == "name":
        try:
            matched = [match_name(name, class_names) for name in found]
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from None
        return np.array(matched, np.int64)[inverse], np.ones(len(texts), bool)
    labels = np.array([_index(text, len(class_names)) for text in found], np.int64)[inverse]
    return labels, labels >= 0


def misfit(kind: str, text: str, class_names: tuple[str, ...]) -> str:
    """Why a label does not fit, for an error's sentence."""
    num = len(class_names)
    if kind == "multi_hot":
        return f"an image has labels for {len(text)} classes, but there are {num} class names; fix one of them"
    if not text.isdigit():
        return f"label {text[:40]!r} is not a class index; write a number into every .cls"
    return f"class index {text} is out of range; classnames.txt has {num} names (0 to {num - 1})"


def match_name(name: str, class_names: Sequence[str], kind: str = "class") -> int:
    """Index of the class that a folder or a table names: the very name, or it with blanks for underscores, or read like a URL (`a%2Fb`
    is `a/b`, as exported folders have it), or else the only one that is the same in lower case and without punctuation. A WordNet id
    in the name decides where it is one of these classes'.

    Raises:
        ValueError: none is, or several are.
    """
    for written in (name, name.replace("_", " "), name.replace("_", " ").strip(), unquote(name)):
        if class_names.count(written) == 1:
            return class_names.index(written)
    if (number := class_of_id(name, class_names)) is not None:
        return number
    alike = [number for number, each in enumerate(class_names) if _plain(each) == _plain(name)]
    if len(alike) == 1:
        return alike[0]
    if alike:
        several = " and ".join(repr(class_names[number]) for number in alike)
        if len({class_names[number] for number in alike}) == 1 and (ids := ids_of(class_names[alike[0]], class_names)):
            several = f"{' or '.join(ids)}, two classes of one name"
            raise ValueError(f"{kind} {name!r} may be {several}; add the id to the name, as in {name}_{ids[0]}")
        raise ValueError(f"{kind} {name!r} may be {several}; give it the exact name of one")
    raise ValueError(unknown_name(kind, _plain(name), [_plain(each) for each in class_names]))


def _plain(name: str) -> str:
    # file systems spell an accent in two ways
    return plain_name(unicodedata.normalize("NFC", name))


def _index(text: str, num_classes: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    return number if number < num_classes else -1


def _multi_hot(texts: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    is_valid = np.array([len(text) == num_classes for text in texts], bool)
    digits = "".join(str(text) for text in texts[is_valid]).encode()
    labels = np.zeros((len(texts), num_classes), np.int64)
    labels[is_valid] = (np.frombuffer(digits, np.uint8) - ord("0")).reshape(-1, num_classes)
    return labels, is_valid
