"""Exact nearest database vectors where each query wants hundreds of them, such as the captions of a class.

`exact_search` screens tiles of rows and leaves out those where a query finds nothing. With hundreds of rows per query hardly a
tile is empty, and the plain product of blocks is fastest: each query keeps its k-th best score so far, what beats it waits, and
now and then what waits is merged. The products are float32; all rows within their rounding error of the k-th best stay, and a
second pass sums in float64 those products that float32 cannot tell apart, so that the order is that of brute force.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from engine.retriever.blocks import Block, checked, uploaded
from engine.retriever.exact_search import TopK, squared_norms

ROWS_AT_ONCE = 8_192
"""Rows per product: 2,548 queries x 8,192 rows take 83 MB."""
MAX_WAITING = 1_000_000
"""Pairs that wait before they are merged."""
DENSE = 1 / 16
"""Share of a product's entries from which it is merged whole."""
SPARE = 32
"""Rows kept beyond k, for those within the rounding error of the k-th; more if there are more."""
PAIRS_AT_ONCE = 32_768
_NOTHING = torch.finfo(torch.float32).min


def many_nearest(queries: np.ndarray, blocks: Callable[[], Iterable[Block]], *, k: int, device: str = "cpu") -> TopK:
    """The `k` rows with the largest inner product for each of `queries` `[Q, D]` float32; fewer if the database has fewer.

    Args:
        queries: of any norm.
        blocks: gives the database, each row once, in the same blocks each time it is called (twice).
        k: rows per query.
        device: torch device of the computation.

    Raises:
        ValueError: a vector is not finite or differs from the queries in its dimension.
    """
    if queries.ndim != 2 or k < 1:
        raise ValueError(f"queries have shape {queries.shape} and k is {k}; give [Q, D] vectors and k of 1 or more")
    if not np.isfinite(queries).all():
        raise ValueError("a query holds NaN or infinity; embed its text again, or leave it out")
    search = _Candidates(torch.from_numpy(np.ascontiguousarray(queries, np.float32)).to(device), k)
    for block, vectors in _on_device(blocks, queries.shape[1], device):
        search.add(torch.from_numpy(block.rows).to(device), vectors)
    return _rescored(search, _on_device(blocks, queries.shape[1], device))


def merge_nearest(parts: Iterable[TopK], k: int) -> TopK:
    """The `k` best rows of each query from searches of several parts of one database."""
    found = list(parts)
    rows = np.concatenate([part.rows for part in found], axis=1)
    scores = np.concatenate([part.scores for part in found], axis=1)
    return _ordered(rows, scores, k)


def _ordered(rows: np.ndarray, scores: np.ndarray, k: int) -> TopK:
    """The best first, ties in order of the row, `k` of them or as many as there are columns."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return TopK(np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _on_device(
    blocks: Callable[[], Iterable[Block]], dimension: int, device: str
) -> Iterator[tuple[Block, torch.Tensor]]:
    for block, vectors in uploaded(checked(blocks(), dimension, False), torch.device(device)):
        finite = torch.isfinite(squared_norms(vectors))
        if not finite.all():
            row = block.rows[int(finite.int().argmin())]
            raise ValueError(f"row {row} of the database holds NaN or infinity; embed it again, or leave it out")
        yield block, vectors


class _Candidates:
    """The best rows of each query so far, by float32 products, and all others within their rounding error of the k-th."""

    def __init__(self, queries: torch.Tensor, k: int):
        self.queries, self.k = queries, k
        self._norms = queries.norm(dim=1)
        self._longest = 0.0
        self.scores = torch.full((len(queries), k + SPARE), _NOTHING, device=queries.device)
        self.rows = torch.full((len(queries), k + SPARE), -1, dtype=torch.int64, device=queries.device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._num_waiting = 0
        self._products = torch.empty(len(queries) * ROWS_AT_ONCE, device=queries.device)
        self._is_better = torch.empty(len(queries) * ROWS_AT_ONCE, dtype=torch.bool, device=queries.device)

    def add(self, rows: torch.Tensor, vectors: torch.Tensor) -> None:
        """Searches rows `[B] int64` with their vectors `[B, D]`."""
        self._longest = max(self._longest, float(vectors.norm(dim=1).max()))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, len(rows)))
            # the same memory each time: fresh pages for every product cost as much as the product
            shape = (len(self.queries), part.stop - start)
            products, is_better = (
                each[: shape[0] * shape[1]].view(shape) for each in (self._products, self._is_better)
            )
            torch.mm(self.queries, vectors[part].T, out=products)
            torch.ge(products, self._needed()[:, None], out=is_better)
            places = _flat_places(is_better)
            if len(places) > DENSE * products.numel():
                self._merge_waiting()
                everyone = torch.arange(len(self.queries), device=rows.device)
                self._merge(everyone, products, rows[part].expand(len(self.queries), -1))
            elif len(places):
                query = torch.div(places, products.shape[1], rounding_mode="floor")
                column = places - query * products.shape[1]
                self._waiting.append((query, rows[part][column], products.view(-1)[places]))
                self._num_waiting += len(places)
                if self._num_waiting > MAX_WAITING:
                    self._merge_waiting()

    def close(self) -> torch.Tensor:
        """Merges what waits; `[Q, W]` bool, the candidates that rounding may have put on the wrong side of another one."""
        self._merge_waiting()
        slack = self._slack()[:, None]
        near = self.scores[:, :-1] - self.scores[:, 1:] <= slack  # each row is sorted
        near = torch.nn.functional.pad(near, (1, 0)) | torch.nn.functional.pad(near, (0, 1))
        return near & (self.scores >= self._needed()[:, None]) & (self.rows >= 0)

    def _slack(self) -> torch.Tensor:
        """`[Q]`: how far two float32 products may be off together, in whatever order they are summed."""
        return 2 * (self.queries.shape[1] + 4) * 2.0**-24 * self._norms * self._longest

    def _needed(self) -> torch.Tensor:
        """`[Q]`: the least score with which a row may be among the best."""
        return self.scores[:, self.k - 1] - self._slack()

    def _merge_waiting(self) -> None:
        if not self._num_waiting:
            return
        query, rows, scores = (torch.cat(some) for some in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        order = query.argsort(stable=True)
        query, rows, scores = query[order], rows[order], scores[order]
        touched, inverse, counts = torch.unique_consecutive(query, return_inverse=True, return_counts=True)
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[inverse]
        shape = (len(touched), int(counts.max()))
        new_scores = torch.full(shape, _NOTHING, device=query.device)
        new_rows = torch.full(shape, -1, dtype=torch.int64, device=query.device)
        new_scores[inverse, place], new_rows[inverse, place] = scores, rows
        self._merge(touched, new_scores, new_rows)

    def _merge(self, queries: torch.Tensor, new_scores: torch.Tensor, new_rows: torch.Tensor) -> None:
        scores = torch.cat([self.scores[queries], new_scores], dim=1)
        rows = torch.cat([self.rows[queries], new_rows], dim=1)
        width = self.scores.shape[1]
        best, places = scores.topk(min(width, scores.shape[1]), dim=1)
        needed = best[:, self.k - 1] - self._slack()[queries]
        within = int(((scores >= needed[:, None]) & (rows >= 0)).sum(1).max())
        if within > width:  # more rows than are kept cannot be told from the k-th best
            more = min(2 * within, scores.shape[1]) - width
            self.scores = torch.nn.functional.pad(self.scores, (0, more), value=_NOTHING)
            self.rows = torch.nn.functional.pad(self.rows, (0, more), value=-1)
            best, places = scores.topk(self.scores.shape[1], dim=1)
        self.scores[queries], self.rows[queries] = best, rows.gather(1, places)


def _flat_places(mask: torch.Tensor) -> torch.Tensor:
    """Places of the true entries of a mask, counted through its rows."""
    if mask.device.type != "cpu" or mask.numel() % 8:
        return mask.view(-1).nonzero()[:, 0]
    eights = mask.view(-1, 8).numpy()  # few entries are true: most groups of eight are left out at once
    some = np.flatnonzero(eights.view(np.uint64))
    group, place = np.nonzero(eights[some])
    return torch.from_numpy(8 * some[group] + place)


def _rescored(search: _Candidates, blocks: Iterator[tuple[Block, torch.Tensor]]) -> TopK:
    """The candidates in the order of their products, those in float64 that float32 cannot tell apart."""
    query, place = search.close().nonzero(as_tuple=True)
    row = search.rows[query, place]
    order = row.argsort(stable=True)
    query, place, row = query[order], place[order], row[order]
    scores = torch.zeros(len(row), device=row.device)
    for block, vectors in blocks if len(row) else ():
        numbers, place_of = torch.from_numpy(block.rows).to(row.device).sort()
        first, last = torch.searchsorted(row, numbers[[0]]), torch.searchsorted(row, numbers[[-1]], right=True)
        for start in range(int(first), int(last), PAIRS_AT_ONCE):
            part = slice(start, min(start + PAIRS_AT_ONCE, int(last)))
            at = torch.searchsorted(numbers, row[part]).clamp(max=len(numbers) - 1)
            inside = numbers[at] == row[part]  # blocks whose numbers interleave share a range
            chosen, vector = query[part][inside], vectors[place_of[at[inside]]]
            found = (search.queries[chosen].double() * vector.double()).sum(1).float()
            scores[torch.arange(part.start, part.stop, device=row.device)[inside]] = found
    search.scores[query, place] = scores
    rows, all_scores = search.rows.cpu().numpy(), search.scores.cpu().numpy()
    return _ordered(rows, np.where(rows < 0, -np.inf, all_scores).astype(np.float32), search.k)
