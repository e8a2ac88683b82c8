"""`KnownIds`: which images the table has, for the one process that writes it."""

from collections.abc import Iterable, Sequence

from engine.store import Workspace
from engine.store.rows import fetch


class KnownIds:
    """The ids of one version of the table, found by its index, and in memory those that were written since.

    A look into the newest version would scan each small file that the index does not cover.
    """

    def __init__(self, workspace: Workspace):
        self._workspace = workspace
        self.read_again()

    def read_again(self) -> None:
        """Forgets what is in memory: after the index was brought up to date, or when a commit may have failed."""
        self._base = self._workspace.dataset("images")
        self._written: set[str] = set()

    def among(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that have a row."""
        known = self._written.intersection(ids)
        left = [one for one in dict.fromkeys(ids) if one not in known]
        return known.union(fetch(self._base, left, ["id"])["id"].to_pylist())

    def add(self, ids: Iterable[str]) -> None:
        """Adds ids whose rows were committed."""
        self._written.update(ids)
