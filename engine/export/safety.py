"""Safety scores of the images that are exported or audited: how many are flagged, by which checker, and whether they were checked at all."""

from dataclasses import dataclass

import pyarrow as pa

from engine.models.safety import PREFIX
from engine.store.snapshot import Snapshot

THRESHOLD = 0.5
"""Score from which an image is flagged, unless another is asked for."""
UNCHECKED = "Safety: no image was checked by a safety checker (imagefoundry check-safety does it)."


@dataclass(frozen=True)
class SafetyCount:
    """Scores of one checker."""

    checker: str
    """Name and revision."""
    column: str
    threshold: float
    num_images: int
    checked: int
    """Images with a score."""
    flagged: int
    """Images with a score of `threshold` or more."""
    flagged_left_out: int
    """Images of the workspace with such a score for which the condition does not hold."""

    def line(self) -> str:
        """One sentence or two."""
        share = self.flagged / max(self.checked, 1)
        unchecked = self.num_images - self.checked
        rest = f"; {unchecked:,} images were not checked" if unchecked else ""
        left_out = (
            f" {self.flagged_left_out:,} flagged images of the workspace are left out." if self.flagged_left_out else ""
        )
        return (
            f"Safety: {self.checker} checked {self.checked:,} of {self.num_images:,} images and flags {self.flagged:,} of them "
            f"({share:.2%}; {self.column} >= {self.threshold:g}){rest}.{left_out}"
        )


def count_safety(snapshot: Snapshot, threshold: float = THRESHOLD) -> list[SafetyCount]:
    """Counts of each checker whose scores the table has; empty if no image has one. Raises ValueError for a threshold outside 0 to 1."""
    if not 0 < threshold <= 1:
        raise ValueError(f"safety threshold is {threshold:g}; give a score above 0, at most 1")
    found = []
    for field in snapshot.schema:
        if not (field.name.startswith(PREFIX) and pa.types.is_float32(field.type)):
            continue
        checker = (field.metadata or {}).get(b"checker", field.name.removeprefix(PREFIX).encode()).decode()
        flags = f"{field.name} >= {threshold!r}"
        flagged = snapshot.count(flags)
        counts = snapshot.count(f"{field.name} IS NOT NULL"), flagged, snapshot.count_all(flags) - flagged
        if counts[0] or counts[2]:
            found.append(SafetyCount(checker, field.name, threshold, snapshot.num_rows, *counts))
    return found


def safety_lines(counts: list[SafetyCount]) -> list[str]:
    """A sentence per checker, or that nothing was checked."""
    return [one.line() for one in counts] or [UNCHECKED]
