#!/usr/bin/env python3
"""Exact nearest row of another class: 10 k queries x 1 M x 512 on one core, against faiss' flat index and LanceDB.

python -m benchmarks.mining
python -m benchmarks.mining --rows 100000 --queries 2000

faiss has no mask per query, so three peers are measured: its own way to leave rows out (an IDSelector per class for
the queries of that class), the nearest 64 of all rows and then a filter (queries left without a row are repeated with
more, up to the size of the largest class), and no mask at all, which is wrong but a lower bound for any masked flat
search. The first is extrapolated from --selector-queries queries, LanceDB from --lance-queries; the others search all.
Times are CPU seconds of this process, so that other programs matter little; all but LanceDB run on one thread.
Goal: >= 5x faiss' best masked way.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine
from benchmarks.vectors import ClusteredVectors
from engine.retriever.blocks import cut_blocks
from engine.retriever.exact_search import top_k


def timed(action: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """CPU seconds of all threads, and what `action` returns."""
    started = time.process_time()
    result = action(*arguments, **options)
    return time.process_time() - started, result


def by_overfetch(index: Any, queries: np.ndarray, codes: np.ndarray, row_codes: np.ndarray) -> np.ndarray:
    """Row of another class for each query: the nearest 64, then eight times as many for those that need it."""
    found = np.full(len(queries), -1)
    most = min(index.ntotal, int(np.bincount(row_codes).max()) + 1)
    k = min(64, most)
    while True:
        open_queries = np.flatnonzero(found < 0)
        _, rows = index.search(queries[open_queries], k)
        other = row_codes[rows] != codes[open_queries, None]
        place = other.argmax(1)
        hit = other.any(1)
        found[open_queries[hit]] = rows[np.arange(len(rows)), place][hit]
        if hit.all() or k == most:
            return found
        k = min(8 * k, most)


def by_selector(index: Any, queries: np.ndarray, codes: np.ndarray, members: dict[int, np.ndarray]) -> None:
    """One search per class, with its rows left out."""
    import faiss

    for code in np.unique(codes):
        left_out = faiss.IDSelectorNot(faiss.IDSelectorBatch(members[int(code)]))
        index.search(queries[codes == code], 1, params=faiss.SearchParameters(sel=left_out))


def lance_seconds(vectors: np.ndarray, codes: np.ndarray, queries: np.ndarray, query_codes: np.ndarray) -> float:
    """CPU seconds per query of LanceDB's exact search with `class != x`."""
    import lance
    import pyarrow as pa

    with tempfile.TemporaryDirectory() as folder:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        table = lance.write_dataset(pa.table({"vector": flat, "class": codes}), f"{folder}/rows.lance")

        def search() -> None:
            for query, code in zip(queries, query_codes, strict=True):
                near = {"column": "vector", "q": query, "k": 1, "metric": "dot", "use_index": False}
                table.to_table(columns=["class"], filter=f"class != {code}", prefilter=True, nearest=near)

        return timed(search)[0] / len(queries)


def main() -> None:
    """Prints the seconds of each and their ratio to ours."""
    import faiss

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument(
        "--decays", nargs="+", type=float, default=[1.0, 2.0, 3.6, 0.0], help="see benchmarks/vectors.py"
    )
    parser.add_argument("--k", type=int, default=1, help="of our search; faiss is asked for the nearest alone")
    parser.add_argument("--selector-queries", type=int, default=20)
    parser.add_argument("--lance-queries", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    gflop = 2 * options.rows * options.queries * options.dimension / 1e9
    print(f"{machine()}; {options.queries:,} queries x {options.rows:,} x {options.dimension}, {gflop / 1e3:.2f} TFLOP")
    one, two = torch.randn(1024, options.dimension), torch.randn(512, options.dimension)
    rate = max(2 * 1024 * 512 * options.dimension / timed(torch.mm, one, two.T)[0] / 1e9 for _ in range(30))
    print(
        f"one core multiplies {rate:.0f} GFLOP/s, so a float32 product of all pairs takes {gflop / rate:.0f} s at least"
    )
    for number, decay in enumerate(options.decays):
        data = ClusteredVectors(options.dimension, decay=decay)
        queries, codes = data.draw(options.queries, 1)
        rows, row_codes = (np.concatenate(parts) for parts in zip(*data.blocks(options.rows, 2), strict=True))
        index = faiss.IndexFlatIP(options.dimension)
        index.add(rows)
        ours, found = timed(top_k, queries, cut_blocks(rows, row_codes), k=options.k, query_classes=codes)
        print(
            f"\ndecay {decay}: ours, k = {options.k}: {ours:.1f} s CPU, {gflop / ours:.0f} GFLOP/s of the whole product"
        )
        overfetch, answer = timed(by_overfetch, index, queries, codes, row_codes)
        differ = np.flatnonzero(answer != found.rows[:, 0])
        gap = np.abs(np.einsum("qd,qd->q", queries[differ], rows[answer[differ]]) - found.scores[differ, 0])
        assert gap.max(initial=0) < 1e-5, "the searches disagree"
        shown = {f"faiss, over-fetched and filtered ({len(differ)} ties of 1e-5 or less)": overfetch}
        shown["faiss, not masked (wrong; the floor of a masked flat search)"] = timed(index.search, queries, 1)[0]
        if not number:
            members = {int(code): np.flatnonzero(row_codes == code) for code in np.unique(codes)}
            some = slice(0, options.selector_queries)
            seconds = timed(by_selector, index, queries[some], codes[some], members)[0]
            shown["faiss, IDSelector a class (extrapolated)"] = seconds / options.selector_queries * options.queries
            del index
            each = lance_seconds(rows, row_codes, queries[: options.lance_queries], codes[: options.lance_queries])
            shown["LanceDB, query by query (extrapolated)"] = each * options.queries
        for name, seconds in shown.items():
            print(f"  {name:70} {seconds:9.1f} s CPU   {seconds / ours:7.1f} x ours", flush=True)


if __name__ == "__main__":
    main()
