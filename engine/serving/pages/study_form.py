"""The form of a new study: its task, and its methods as named filters. The address keeps it, so a link shows it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from engine.evaluation.rating import SCALES, Task
from engine.serving.pages.filters import Filters

MAX_METHODS = 6
MAX_SETS = 500
REFERENCES = {"any": "true", "none": "reference_id = ''", "some": "reference_id <> ''"}
"""Choice → SQL condition on whether an image was made with a reference."""


@dataclass(frozen=True)
class Method:
    """Images that are compared with others: a name for people, and filters."""

    number: int
    name: str
    filters: Filters
    references: str

    def condition(self, sees: str) -> str:
        """SQL over the columns of `images`."""
        return self.filters.condition(sees, REFERENCES[self.references])


@dataclass(frozen=True)
class StudyForm:
    """What the form says."""

    task: Task
    sets: int
    seed: int
    methods: tuple[Method, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "StudyForm":
        """The form in the fields of an address or a request: `name-1`, `source-1`, … for each method."""
        task: Literal["matching", "real_fake"] = "real_fake" if given.get("task") == "real_fake" else "matching"
        rows = min(max(2, _number(given, "rows", 2)), MAX_METHODS)
        return cls(
            task,
            _number(given, "sets", 12),
            _number(given, "seed", 0),
            tuple(_method(given, number) for number in range(1, rows + 1)),
        )

    @property
    def chosen(self) -> list[Method]:
        """The methods that have a name."""
        return [method for method in self.methods if method.name]

    @property
    def address(self) -> str:
        """The page with this form."""
        given: dict[str, Any] = {"task": self.task, "sets": self.sets, "seed": self.seed, "rows": len(self.methods)}
        for method in self.methods:
            fields = {"name": method.name, "references": method.references} | method.filters.fields
            given |= {f"{name}-{method.number}": value for name, value in fields.items() if value not in ("", "any")}
        return f"/study/new?{urlencode(given)}"

    def check(self) -> None:
        """Raises ValueError with what is wrong."""
        names = [method.name for method in self.chosen]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("a study compares two methods or more; give each a name of its own")
        if not 1 <= self.sets <= MAX_SETS:
            raise ValueError(f"{self.sets} sets are impossible; give 1 to {MAX_SETS}")
        assert self.task in SCALES


def _method(given: Mapping[str, Any], number: int) -> Method:
    def field(name: str) -> str:
        return str(given.get(f"{name}-{number}", "")).strip()

    references = field("references")
    suffix = f"-{number}"
    own = {name.removesuffix(suffix): value for name, value in given.items() if name.endswith(suffix)}
    return Method(number, field("name")[:60], Filters.of(own), references if references in REFERENCES else "any")


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    text = str(given.get(name, ""))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else default
