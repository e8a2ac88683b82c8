"""The values that the filters of the gallery offer, and the numbers of images behind them."""

import threading
from collections import Counter
from typing import Any

import pyarrow as pa

from engine.serving.pages.filters import COLUMNS

_NAMES = tuple(COLUMNS.values())


class Choices:
    """Counts of the values of each column by owner.

    A fragment's counts are kept as long as its files are, so that only new rows are read again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], dict[str, Counter[tuple[str | None, str]]]] = {}

    def of(self, dataset: Any, key_id: str) -> dict[str, dict[str, int]]:
        """Column → value → number of images that the key may see, the most frequent first."""
        with self._lock:
            fragments = {_identity(fragment): fragment for fragment in dataset.get_fragments()}
            new = {identity: one for identity, one in fragments.items() if identity not in self._kept}
            self._kept = {identity: counts for identity, counts in self._kept.items() if identity in fragments}
            for identity, fragment in new.items():
                self._kept[identity] = _count(dataset, fragment)
            every = list(self._kept.values())
        found: dict[str, dict[str, int]] = {}
        for name in _NAMES:
            total: Counter[str] = Counter()
            for counts in every:
                for (owner, value), number in counts[name].items():
                    if value and owner in (None, key_id):
                        total[value] += number
            found[name] = dict(total.most_common())
        return found


def _identity(fragment: Any) -> tuple[str, ...]:
    metadata = fragment.metadata
    return (str(metadata.id), str(metadata.deletion_file), *(file.path for file in metadata.files))


def _count(dataset: Any, fragment: Any) -> dict[str, Counter[tuple[str | None, str]]]:
    table: pa.Table = dataset.scanner(columns=[*_NAMES, "owner"], fragments=[fragment]).to_table()
    found = {}
    for name in _NAMES:
        groups = table.group_by(["owner", name]).aggregate([([], "count_all")]).to_pylist()
        found[name] = Counter({(row["owner"], row[name]): row["count_all"] for row in groups})
    return found
