"""`Caller`: the API key behind a request, and what it may see."""

from dataclasses import dataclass

from engine.store.rows import quote


@dataclass(frozen=True)
class Caller:
    """The API key that a request was made with."""

    key_id: str
    """Public id of the key, as rows of the table name it."""
    name: str
    """Name that the key was given."""
    rate_per_minute: int | None = None
    """Images per minute; None for no limit."""
    budget_usd: float | None = None
    """US dollars that its images may cost in all; None for no limit."""

    @property
    def sees(self) -> str:
        """SQL condition on `images`: its own images, and those of nobody in particular (of runs, and shared ones)."""
        return f"(owner IS NULL OR owner = {quote(self.key_id)})"
