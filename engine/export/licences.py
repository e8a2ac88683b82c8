"""Licences of what an export contains, and whether they allow it (`licences.toml` says what each forbids)."""

import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, TypeAlias

from engine.catalog import dataset_licence
from engine.export.contents import Contents
from engine.models.registry import generator_entries
from engine.names import unknown_name

Part: TypeAlias = Literal["images", "generator", "references"]

UNKNOWN = "not stated"
"""Shown for a part whose licence no source states."""


@dataclass(frozen=True)
class Licence:
    """One entry of `licences.toml`."""

    name: str
    hub: str
    """Identifier on the Hugging Face Hub."""
    forbids: tuple[str, ...]
    """Of `commercial`, `redistribution`, `derivatives`, `other-terms` (share-alike)."""
    why: str
    """The clause in a few words."""
    source: str
    date: str
    """Day on which the entry was written."""
    checked: str = ""
    """Text that it was compared with, and when; empty if none could be read."""


class Use(NamedTuple):
    """One part of an export and its licence."""

    part: Part
    """`images` that are exported as they are, the `generator` that made some, or `references` that it was given."""
    name: str
    """Data set, pool or generator."""
    licence: str
    """Name of the licence; empty if no source states it."""

    def __str__(self) -> str:
        return f"{self.part} {self.name}" if self.part == "generator" else f"{self.part} of {self.name}"


@cache
def known_licences() -> Mapping[str, Licence]:
    """Name → entry."""
    text = files("engine.export").joinpath("licences.toml").read_text("utf-8")
    return {
        name: Licence(name, **entry | {"forbids": tuple(entry["forbids"])})
        for name, entry in tomllib.loads(text).items()
    }


def parse_declared(declared: Iterable[str]) -> dict[str, str]:
    """`NAME=LICENCE` → both. Raises ValueError for another form, or a licence that `licences.toml` does not have."""
    found = {}
    for text in declared:
        name, _, licence = text.partition("=")
        if not name or not licence:
            raise ValueError(
                f"licence-of {text!r} is not NAME=LICENCE; give a data set, a pool or a generator and its licence"
            )
        if licence not in known_licences():
            raise ValueError(unknown_name("licence", licence, list(known_licences())))
        found[name] = licence
    return found


def licences_of(contents: Contents, declared: Mapping[str, str]) -> list[Use]:
    """Every part of an export with its licence, sorted; `declared` (name → licence) comes before the catalogs."""
    found: set[Use] = set()
    for kind in contents.kinds:
        if kind.generator:
            entry = generator_entries().get(kind.generator, {})
            found.add(Use("generator", kind.generator, declared.get(kind.generator) or str(entry.get("licence") or "")))
            auxiliary = entry.get("auxiliaries", {}).get(kind.reference_mode)
            if auxiliary is not None:
                name = f"{kind.generator}'s {kind.reference_mode}"
                found.add(Use("generator", name, declared.get(name) or str(auxiliary.get("licence") or "")))
        else:
            name = kind.corpus or kind.dataset
            found.add(Use("images", name, declared.get(name) or dataset_licence(name)))
    for name in contents.reference_datasets:
        found.add(Use("references", name, declared.get(name) or dataset_licence(name)))
    return sorted(found)


def conflicts(uses: Sequence[Use], *, commercial: bool) -> list[tuple[frozenset[str], str]]:
    """Licences that forbid the export, each with the reason; allowing one of a pair's names allows the pair.

    A licence that is not in `licences.toml` forbids nothing here: the card says that it is not known.
    """
    known = known_licences()
    found: list[tuple[frozenset[str], str]] = []
    for use in uses:
        licence = known.get(use.licence)
        if licence is None:
            continue
        broken = ""
        if use.part == "images" and "redistribution" in licence.forbids:
            broken = "forbids passing them on"
        elif use.part == "references" and "derivatives" in licence.forbids:
            broken = "forbids what is derived from them"
        elif commercial and "commercial" in licence.forbids:
            broken = "forbids commercial use"
        if broken:
            found.append((frozenset({licence.name}), f"the licence of {use} ({licence.name}) {broken}: {licence.why}"))
    images = [use for use in uses if use.part != "generator" and use.licence in known]
    for alike in (use for use in images if "other-terms" in known[use.licence].forbids):
        for other in uses:
            limits = set(known[other.licence].forbids) if other.licence in known else set()
            if other.licence != alike.licence and limits:
                found.append(
                    (
                        frozenset({alike.licence, other.licence}),
                        f"{alike} ({alike.licence}) and {other} ({other.licence}) cannot be mixed: "
                        f"{known[alike.licence].why}, but the other forbids {' and '.join(sorted(limits))}",
                    )
                )
    return found


def check_licences(uses: Sequence[Use], allowed: Collection[str], *, commercial: bool) -> list[str]:
    """The reasons that `allowed` licences put aside. Raises ValueError for the first that is not allowed."""
    for name in allowed:
        if name not in {use.licence for use in uses}:
            raise ValueError(
                unknown_name("licence in this export", name, sorted({use.licence for use in uses if use.licence}))
            )
    put_aside = []
    for names, reason in conflicts(uses, commercial=commercial):
        if not names & set(allowed):
            one = sorted(names)[0]
            raise ValueError(
                f"{reason}; leave these images out with --where, or, if you have the right, give --allow-licence '{one}'"
            )
        put_aside.append(reason)
    return put_aside


def hub_licence(uses: Sequence[Use]) -> str:
    """The Hub's identifier where all parts have one licence; `unknown` where one is not stated, `other` for a mix."""
    names = {use.licence for use in uses}
    if "" in names or not names <= set(known_licences()):
        return "unknown"
    return known_licences()[names.pop()].hub if len(names) == 1 else "other"
