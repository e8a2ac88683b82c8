"""`Filters`: which images of the table a page shows, as fields of an address and as an SQL condition."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from engine.store.rows import quote

COLUMNS = {
    "class": "class_name",
    "source": "source",
    "dataset": "dataset",
    "strategy": "strategy",
    "generator": "generator",
    "run": "run_id",
}
"""Field of an address → column of `images`."""
MAX_CHARS = 300


@dataclass(frozen=True)
class Filters:
    """One value per column; an empty one allows everything."""

    class_name: str = ""
    source: str = ""
    dataset: str = ""
    strategy: str = ""
    generator: str = ""
    run_id: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Filters":
        """The filters among the fields of an address or a form."""
        return cls(**{column: str(given.get(name, ""))[:MAX_CHARS] for name, column in COLUMNS.items()})

    @property
    def fields(self) -> dict[str, str]:
        """Field of an address → value, without those that allow everything."""
        return {name: value for name, column in COLUMNS.items() if (value := getattr(self, column))}

    def condition(self, *more: str) -> str:
        """SQL over the columns of `images`: these filters and the conditions `more`."""
        own = [f"{column} = {quote(value)}" for column in _NAMES if (value := getattr(self, column))]
        return " AND ".join([*more, *own]) or "true"

    def allows(self, row: Mapping[str, Any]) -> bool:
        """Whether a row passes."""
        return all(getattr(self, column) in ("", row[column]) for column in _NAMES)

    def address(self, path: str, **more: Any) -> str:
        """`path` with these filters and further fields; fields that are empty are left out."""
        given = self.fields | {name: value for name, value in more.items() if value not in ("", None)}
        return f"{path}?{urlencode(given)}" if given else path


_NAMES = tuple(one.name for one in fields(Filters))
