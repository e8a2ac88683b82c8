"""One sentence for a name that is not known, with the nearest that are."""

from collections.abc import Sequence
from difflib import get_close_matches

LISTED = 40
"""Known names that an error lists."""


def unknown_name(kind: str, name: str, known: Sequence[str], hint: str = "") -> str:
    """`unknown data set 'cras'; did you mean cars? (known: …)`."""
    nearest = get_close_matches(name, known, n=3, cutoff=0.5)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    advice = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(known[:LISTED])}{more}"
    return f"unknown {kind} {name!r}; {advice}" + (f" ({hint})" if hint else "")


def plain_name(name: str) -> str:
    """A class name as others write it too: lower case, blanks for underscores and hyphens (`Apple_Pie` → `apple pie`)."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
