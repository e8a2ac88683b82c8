"""What became of a plan: the counts that `Run.fill` returns."""

from dataclasses import dataclass


@dataclass
class FillResult:
    """Counts of a filled plan."""

    planned: int
    present: int
    """Recipes whose image was already in the table or rejected, or that repeat another recipe of the plan."""
    made: int = 0
    errors: int = 0
    """Recipes that failed."""
    rejected: int = 0
    """Images that a stage rejected."""
    updated: int = 0
    """Images of earlier runs that lacked a column of a stage and now have it."""
