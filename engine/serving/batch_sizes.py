"""Seconds per batch, learnt from batches that ran, and the batch size that serves waiting images fastest."""

from collections.abc import Hashable

WEIGHT = 0.3
"""Weight of the newest measurement."""
GAIN = 0.9
"""A batch with empty places is chosen only if it takes less than this share of the seconds per image."""


class BatchSizes:
    """Batch sizes 1, 2, 4, 8, … up to a limit; each kind of batch (model, image size, steps) has measurements of its own."""

    def __init__(self, most: int):
        self._most = most
        self._limits: dict[Hashable, int] = {}
        self._seconds: dict[Hashable, dict[int, float]] = {}

    def sizes(self, kind: Hashable) -> list[int]:
        """The sizes that may be used, the smallest first; the last is the limit itself."""
        limit = self._limits.get(kind, self._most)
        powers = [1 << power for power in range(limit.bit_length())]
        return [size for size in powers if size < limit] + [limit]

    def choose(self, kind: Hashable, waiting: int) -> int:
        """The size with the fewest seconds per image if `waiting` images wait; a larger one must gain something.

        An unmeasured size counts as costing what the largest measured smaller size costs, so it is tried soon.
        """
        known = self._seconds.get(kind, {})
        sizes = self.sizes(kind)
        if not known:
            return next((size for size in sizes if size >= waiting), sizes[-1])
        best = sizes[0]
        for size in sizes[1:]:
            seconds, least = (self._cost(known, one) / min(one, waiting) for one in (size, best))
            if seconds < least * GAIN:
                best = size
        return best

    def record(self, kind: Hashable, size: int, seconds: float) -> None:
        """Learns that a batch took so long."""
        known = self._seconds.setdefault(kind, {})
        known[size] = seconds if size not in known else (1 - WEIGHT) * known[size] + WEIGHT * seconds

    def limit(self, kind: Hashable, most: int) -> None:
        """Lowers the largest size of a kind, after the device ran out of memory."""
        self._limits[kind] = min(most, self._limits.get(kind, self._most))

    def seconds(self, kind: Hashable, size: int) -> float | None:
        """Expected duration of a batch; None if no batch of the kind was measured."""
        known = self._seconds.get(kind)
        return self._cost(known, size) if known else None

    @staticmethod
    def _cost(known: dict[int, float], size: int) -> float:
        if size in known:
            return known[size]
        smaller = [one for one in known if one < size]
        return known[max(smaller)] if smaller else known[min(known)]
