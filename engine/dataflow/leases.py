"""Leases: the work that one actor call receives, cut from a plan on demand. This module does not depend on Ray."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from engine.sources import Plan
from engine.store import IdSet
from engine.store.ids import id_bytes

MAX_ROWS = 512
"""Maximum number of recipes of a lease."""
LEASE_SECONDS = 10.0
"""Target duration of a lease, so that slow generators report often and fast ones rarely."""
FIRST_WINDOW = 1_024
"""Recipes of the first window, which is small, so that the first lease is ready within milliseconds."""
WINDOW = 100_000
"""Recipes that are hashed together and compared with the table."""
PROBES = 16
"""Recipes of a window that tell whether the table has it already."""
WINDOWS_AHEAD = 2
"""Windows with missing recipes that are hashed before those that the table seems to have."""


@dataclass(frozen=True, eq=False)
class Lease:
    """Recipes of a plan that one actor call makes: all read or all generated."""

    indices: np.ndarray
    """`[N]` int64 plan indices."""
    reads: bool = False
    """Whether the images are read from files instead of generated."""
    care: int = 0
    """0: a normal lease. 1: a process died with it, so each batch is noted before it begins. 2: a process died in this
    very batch, so each recipe is made alone and noted."""
    deaths: int = 0
    """Number of processes that died with it."""
    died_alone: frozenset[int] = field(default_factory=frozenset)
    """Indices of recipes that a process made alone when it died."""

    def __len__(self) -> int:
        return len(self.indices)


class Backlog:
    """Recipes of a plan that the table lacks, found window by window while the first leases are already being made.

    A resumed run does not wait until all that it has made before is hashed: windows that lack recipes come first. A recipe
    that occurs several times in the plan is made once.
    """

    def __init__(self, plan: Plan, done: IdSet, reads: Callable[[str], bool]):
        self._plan, self._done, self._reads = plan, done, reads
        self._starts = iter(_in_order(plan, done))
        self._beside = ThreadPoolExecutor(1)
        self._next: Future[_Window] | None = None
        self._ready: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._again: deque[Lease] = deque()
        self._earlier: list[np.ndarray] = []
        self.is_pending = np.zeros(len(plan), bool)
        """`[len(plan)]`: number of recipes found missing so far."""
        self._num_pending = 0
        self.num_present = 0
        """Number of recipes found in the table, or repeated, so far."""
        self._look_ahead()

    def __bool__(self) -> bool:
        """Whether any work is left to hand out; searches the plan until it finds some."""
        while not self._again and not self._ready and self._next is not None:
            self._take_window()
        return bool(self._again or self._ready)

    @property
    def most_left(self) -> int:
        """An upper bound on the recipes left to hand out."""
        ready = sum(len(indices) for indices, _ in self._ready) + sum(len(lease) for lease in self._again)
        return ready + len(self._plan) - self.num_present - self._num_pending

    def take(self, num_rows: Callable[[bool], int]) -> Lease | None:
        """The next lease of about `num_rows(reads)` recipes; put-back recipes come first. None if no work is left."""
        if not self:
            return None
        while self._next is not None and self._next.done() and len(self._ready) < WINDOWS_AHEAD:
            self._take_window()
        if self._again:
            return self._again.popleft()
        indices, read = self._ready[0]
        reads = bool(read[0])
        alike = int(np.argmax(read != reads)) or len(read)
        size = min(num_rows(reads), alike)
        if size < len(indices):
            self._ready[0] = indices[size:], read[size:]
        else:
            self._ready.popleft()
        if len(self._ready) < WINDOWS_AHEAD:
            self._look_ahead()
        return Lease(indices[:size], reads)

    @property
    def next_reads(self) -> bool:
        """Whether the images of the next lease are read from files."""
        if not self:
            return False
        return self._again[0].reads if self._again else bool(self._ready[0][1][0])

    def put_back_indices(self, indices: Sequence[int]) -> None:
        """Takes back indices, from any leases."""
        for reads in (True, False):
            of_kind = [index for index in indices if self._reads(self._plan[index].source) == reads]
            self.put_back(Lease(np.array(sorted(of_kind), np.int64), reads))

    def put_back(self, *leases: Lease) -> None:
        """Takes back leases that were not made."""
        self._again.extend(lease for lease in leases if len(lease))

    def pending_ids(self) -> IdSet:
        """Ids of the recipes found missing so far."""
        return IdSet(self._earlier)

    def close(self) -> None:
        """Ends the look-ahead thread."""
        self._beside.shutdown(cancel_futures=True)

    def _look_ahead(self) -> None:
        if self._next is None and (window := next(self._starts, None)):
            self._next = self._beside.submit(_hash, self._plan, self._done, self._reads, *window)

    def _take_window(self) -> None:
        assert self._next is not None
        found = self._next.result()
        self._next = None
        self._look_ahead()
        fresh = np.ones(len(found.ids), bool)
        for earlier in self._earlier:
            places = np.minimum(np.searchsorted(earlier, found.ids), len(earlier) - 1)
            fresh &= earlier[places] != found.ids
        self._remember(found.ids[fresh])
        order = np.argsort(found.indices[fresh])
        indices, reads = found.indices[fresh][order], found.reads[fresh][order]
        self.num_present += found.size - len(indices)
        self.is_pending[indices] = True
        self._num_pending += len(indices)
        if len(indices):
            self._ready.append((indices, reads))

    def _remember(self, ids: np.ndarray) -> None:
        """Keeps sorted arrays of doubling sizes, so that a long plan is not sorted again for each window."""
        while len(ids) and self._earlier and len(self._earlier[-1]) <= 2 * len(ids):
            ids = np.sort(np.concatenate([self._earlier.pop(), ids]))
        if len(ids):
            self._earlier.append(ids)


@dataclass(frozen=True)
class _Window:
    """Missing recipes of one part of a plan, each id once, sorted by id."""

    ids: np.ndarray
    indices: np.ndarray
    reads: np.ndarray
    size: int


def _in_order(plan: Plan, done: IdSet) -> list[tuple[int, int]]:
    """The windows of a plan: a few that lack recipes, then those that the table seems to have, then the others that lack some."""
    windows = list(_windows(len(plan)))
    if not len(done):
        return windows
    lacking = [window for window in windows if _seems_to_lack(plan, done, *window)]
    first = lacking[:WINDOWS_AHEAD]
    return [*first, *(window for window in windows if window not in set(lacking)), *lacking[WINDOWS_AHEAD:]]


def _seems_to_lack(plan: Plan, done: IdSet, start: int, stop: int) -> bool:
    some = np.unique(np.linspace(start, stop - 1, PROBES).astype(int)).tolist()
    return not done.contains(id_bytes([plan[index].id for index in some])).all()


def _windows(num: int) -> Iterator[tuple[int, int]]:
    start, size = 0, FIRST_WINDOW
    while start < num:
        yield start, min(num, start + size)
        start, size = start + size, WINDOW


def _hash(plan: Plan, done: IdSet, reads: Callable[[str], bool], start: int, stop: int) -> _Window:
    recipes = [plan[index] for index in range(start, stop)]
    ids, first = np.unique(id_bytes([recipe.id for recipe in recipes]), return_index=True)
    missing = ~done.contains(ids)
    ids, first = ids[missing], first[missing]
    read = np.array([reads(recipes[number].source) for number in first], bool)
    return _Window(ids, first.astype(np.int64) + start, read, stop - start)


class LeaseSize:
    """Rows of the next lease: one model batch at first, then twice as many each time, up to `LEASE_SECONDS` of work.
    Near the end it is at most half of an actor's share of the remaining rows, so that all actors end together."""

    def __init__(self, rows_per_call: int):
        self._batch = rows_per_call
        self._largest = {True: rows_per_call, False: rows_per_call}
        self._rows_per_second: dict[bool, float] = {}

    def learn(self, reads: bool, rows: int, seconds: float) -> None:
        """Records the time that a lease took."""
        rate = rows / max(seconds, 1e-6)
        self._rows_per_second[reads] = 0.5 * (self._rows_per_second.get(reads, rate) + rate)

    def next(self, reads: bool, left: int, num_actors: int) -> int:
        """Rows to hand out; a multiple of a model batch."""
        most = min(self._largest[reads], max(self._batch, MAX_ROWS))
        if reads in self._rows_per_second:
            most = min(most, int(self._rows_per_second[reads] * LEASE_SECONDS))
        most = min(most, left // (2 * max(1, num_actors)))
        self._largest[reads] = min(self._largest[reads] * 2, max(self._batch, MAX_ROWS))
        return max(self._batch, most // self._batch * self._batch)
