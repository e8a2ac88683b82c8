"""Names of splits, by the keywords of Hugging Face's datasets library, in any case."""

import re
from collections.abc import Iterable

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split → words that name it (datasets' documentation, "Structure your repository")."""
_SPLIT_OF = {word: split for split, words in KEYWORDS.items() for word in words}


def split_named(name: str) -> str:
    """The split that a whole name means, as `Training`; empty if it means none."""
    return _SPLIT_OF.get(name.lower(), "")


def split_within(name: str) -> str:
    """The split whose keyword stands in a name between characters that are no letters, as in `train_0` or `seg-test`.

    Empty if there is none.

    Raises:
        ValueError: the name holds keywords of several splits.
    """
    found = {_SPLIT_OF[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SPLIT_OF}
    if len(found) > 1:
        raise ValueError(f"{name!r} names the splits {' and '.join(sorted(found))}; rename it so that it names one")
    return found.pop() if found else ""


def split_of_path(path: str) -> str:
    """The split of a file: the innermost part of its path that names one. Raises ValueError as `split_within`."""
    *folders, file = path.split("/")
    stem = file.partition(".")[0] or file
    return next((split for part in (stem, *reversed(folders)) if (split := split_within(part))), "")


def candidates(split: str) -> tuple[str, ...]:
    """Splits that may serve as this one, the first that can be scored counts: `validation` stands in for `test`."""
    split = split_named(split) or split
    return (split, "validation") if split == "test" else (split,)


def listed(splits: Iterable[str]) -> str:
    """Names for an error's sentence."""
    return ", ".join(sorted(splits)) or "none"
