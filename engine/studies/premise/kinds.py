"""Kinds of classes of `mini-pairs`: those that the generator was taught, and those that it was not."""

from collections.abc import Mapping
from statistics import fmean

from engine.studies.realrag.judge import Row
from engine.world.classes import PAIRS, shown_to_generator

TAUGHT, UNTAUGHT, ALL = "A", "B", "all"
"""Siblings that the generator was taught, the one of each genus that it was not, and both."""


def by_kind(scores: Mapping[str, Mapping[int, float]]) -> list[Row]:
    """A row per kind of class with the means of each score (class → share) over its classes; None where no class has one."""
    taught = shown_to_generator(PAIRS)
    rows = []
    for kind, wanted in ((TAUGHT, (True,)), (UNTAUGHT, (False,)), (ALL, (True, False))):
        row: Row = {"classes": kind}
        for name, shares in scores.items():
            values = [share for number, share in shares.items() if taught[number] in wanted]
            row[name] = fmean(values) if values else None
        rows.append(row)
    return rows
