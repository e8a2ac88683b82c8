"""The account of a reader: each file or item that it was given is used, ignored by a rule, or refused for a reason."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

NAMES = 3
"""Names that are kept of each rule and reason."""

Verdict: TypeAlias = Literal["used", "ignored", "refused"]


class Left(NamedTuple):
    """One file or item that is not used."""

    verdict: Verdict
    """`ignored` by a rule, or `refused` although it looks like data."""
    reason: str
    """The rule or the reason, the same words for all that it applies to."""
    name: str
    """Path below the location; for an item inside a file, `FILE: ITEM`."""


@dataclass
class Tally:
    """Files or items of one verdict and reason."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    """The first few of them."""
    planned: bool = False
    """Whether they are in the index all the same, so that a run that asks for one has an error row of it."""


class Account:
    """Counts by verdict and reason, with the first names of each."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[Verdict, str], Tally] = {}

    def add(self, verdict: Verdict, reason: str, name: str, *, count: int = 1, planned: bool = False) -> None:
        """Enters one file or item, or several under one name."""
        tally = self._tallies.setdefault((verdict, reason), Tally(planned=planned))
        tally.count += count
        if len(tally.names) < NAMES:
            tally.names.append(name)

    def leave(self, left: Left) -> None:
        """Enters what is not used."""
        self.add(left.verdict, left.reason, left.name)

    def merge(self, other: "Account") -> None:
        """Adds all that another account has."""
        for (verdict, reason), tally in other._tallies.items():
            mine = self._tallies.setdefault((verdict, reason), Tally(planned=tally.planned))
            mine.count += tally.count
            mine.names = (mine.names + tally.names)[:NAMES]

    def where(self, keeps: Callable[[Verdict, str, Tally], bool]) -> "Account":
        """The part whose verdicts, reasons and tallies are kept."""
        part = Account()
        part._tallies = {key: tally for key, tally in self._tallies.items() if keeps(*key, tally)}
        return part

    def with_refused(self, reason: str, names: list[str]) -> "Account":
        """The account with some of the used items refused."""
        changed = Account()
        changed.merge(self)
        changed._tallies["used", ""].count -= len(names)
        for name in names:
            changed.add("refused", reason, name)
        return changed

    def lost(self) -> Iterator[tuple[str, Tally]]:
        """Reasons of refused items that are not in the index, the most frequent first."""
        return ((reason, tally) for reason, tally in self.tallies("refused") if not tally.planned)

    def count(self, verdict: Verdict | None = None) -> int:
        """Files and items of a verdict, or all."""
        return sum(tally.count for (each, _), tally in self._tallies.items() if verdict in (None, each))

    def tallies(self, verdict: Verdict) -> Iterator[tuple[str, Tally]]:
        """Reasons of a verdict, the most frequent first."""
        found = [(reason, tally) for (each, reason), tally in self._tallies.items() if each == verdict]
        return iter(sorted(found, key=lambda item: (-item[1].count, item[0])))

    def line(self) -> str:
        """One line: `80 used, 2 ignored (hidden: 2), 1 refused (a link to nothing: cat/7.png)`."""
        parts = [f"{self.count('used'):,} used"]
        for verdict in ("ignored", "refused"):
            if not self.count(verdict):
                continue
            names = [
                f"{reason}: {tally.names[0] if tally.count == 1 else format(tally.count, ',')}"
                for reason, tally in self.tallies(verdict)
            ]
            more = f"; {len(names) - NAMES} more" if len(names) > NAMES else ""
            parts.append(f"{self.count(verdict):,} {verdict} ({'; '.join(names[:NAMES])}{more})")
        return ", ".join(parts)

    def rows(self) -> list[dict[str, Any]]:
        """Rows `verdict`, `reason`, `count` and `examples`, used ones first."""
        verdicts: tuple[Verdict, ...] = ("used", "ignored", "refused")
        return [
            {"verdict": verdict, "reason": reason, "count": tally.count, "examples": ", ".join(tally.names)}
            for verdict in verdicts
            for reason, tally in self.tallies(verdict)
        ]

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(
            [[*key, tally.count, tally.names, tally.planned] for key, tally in self._tallies.items()], ensure_ascii=True
        )

    @classmethod
    def from_json(cls, text: str) -> "Account":
        """The account of `to_json`."""
        account = cls()
        for verdict, reason, count, names, planned in json.loads(text):
            account._tallies[verdict, reason] = Tally(count, names, planned)
        return account
