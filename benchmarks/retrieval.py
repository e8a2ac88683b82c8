#!/usr/bin/env python3
"""The ten nearest of 1 M x 512 on disk through `Workspace.search`, whole and filtered, against faiss at equal recall.

python -m benchmarks.retrieval --rows 100000
python -m benchmarks.retrieval            # the million: an hour of one core

The rows are images without pictures (their vectors: benchmarks/vectors.py, 1,000 classes, queries of the same classes that are
not in the table); half are `original`, half `retrieval`. Recall@10 is against an exact search. Every setting is measured and
the first with recall >= 0.99 is marked; faiss' IVF and HNSW in memory are tuned to the same recall. All on one core: give
OMP_NUM_THREADS=1 and taskset. Goal: p50 <= 5 ms at recall >= 0.99.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import machine
from benchmarks.vectors import ClusteredVectors
from engine.recipe import IMAGE_SCHEMA, image_schema
from engine.retriever.blocks import cut_blocks
from engine.retriever.exact_search import NO_CLASS, top_k
from engine.store import Committer, Workspace, maintenance, search, write_fragments

RECALL = 0.99
K = 10
FILTERS = {
    "": "whole",
    "class_index = {c}": "one class",
    "source = 'original'": "one source",
    "class_index <> {c}": "all but a class",
}


def write_rows(workspace: Workspace, vectors: np.ndarray, classes: np.ndarray) -> None:
    """Commits rows whose ids are their numbers."""
    schema = image_schema({"clip": vectors.shape[1]})
    with Committer(workspace) as committer:
        for start in range(0, len(vectors), 65_536):
            part = range(start, min(start + 65_536, len(vectors)))
            columns: dict[str, Any] = {field.name: _filler(field.type, len(part)) for field in IMAGE_SCHEMA}
            columns["id"] = [f"{number:032x}" for number in part]
            columns["source"] = [("original", "retrieval")[number % 2] for number in part]
            columns["class_index"] = classes[part.start : part.stop]
            flat = pa.array(vectors[part.start : part.stop].reshape(-1))
            columns["embedding_clip"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            committer.add(write_fragments(workspace.uri, "images", pa.table(columns, schema=schema)))


def _filler(kind: pa.DataType, num: int) -> pa.Array:
    value = {pa.string(): "x", pa.large_binary(): b""}.get(kind, 0)
    return pa.array([value] * num, kind)


def exact(
    vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray, own: np.ndarray | None = None
) -> list[set[int]]:
    """The true ten of each query among rows that are allowed `[N]`, of its own class `own` = (query classes, classes) if given."""
    if own is not None:
        found = []
        for number, query in enumerate(queries):
            rows = np.flatnonzero(own[1] == own[0][number])
            found.append(set(rows[np.argsort(-(vectors[rows] @ query), kind="stable")[:K]].tolist()))
        return found
    rows = np.flatnonzero(allowed)
    return [set(rows[best].tolist()) for best in top_k(queries, cut_blocks(vectors[rows]), k=K).rows]


def measure(ask: Callable[[int], Sequence[int]], truth: list[set[int]]) -> tuple[float, float, float]:
    """Recall, and the median and 95th percentile in milliseconds."""
    hits, times = 0, []
    for number in range(len(truth)):
        started = time.perf_counter()
        found = ask(number)
        times.append((time.perf_counter() - started) * 1e3)
        hits += len(truth[number] & set(found))
    return hits / sum(map(len, truth)), statistics.median(times), float(np.quantile(times, 0.95))


def faiss_settings(rows: np.ndarray) -> Iterator[tuple[str, float, Any, Callable[[Any, int], None], tuple[int, ...]]]:
    """Name, build seconds, index, how to set its effort, and the efforts."""
    import faiss

    faiss.omp_set_num_threads(1)
    dimension = rows.shape[1]
    cells = int(4 * np.sqrt(len(rows)))
    flat = faiss.IndexFlatIP(dimension)
    ivf = faiss.IndexIVFFlat(flat, dimension, cells, faiss.METRIC_INNER_PRODUCT)
    started = time.perf_counter()
    ivf.train(rows[: 40 * cells])
    ivf.add(rows)
    yield (
        f"faiss IVF{cells},Flat",
        time.perf_counter() - started,
        ivf,
        lambda i, e: setattr(i, "nprobe", e),
        (8, 16, 32, 64, 128, 256),
    )
    hnsw = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
    started = time.perf_counter()
    hnsw.add(rows)
    yield (
        "faiss HNSW32",
        time.perf_counter() - started,
        hnsw,
        lambda i, e: setattr(i.hnsw, "efSearch", e),
        (32, 64, 128, 256, 512),
    )


def main() -> None:
    """Prints one line per setting and filter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--decay", type=float, default=1.0, help="see benchmarks/vectors.py")
    parser.add_argument("--folder", type=Path, help="keep the workspace there, and use it if it is there")
    parser.add_argument(
        "--index", nargs="+", default=["ours"], help="ours, or Lance index types to try (IVF_HNSW_SQ, IVF_PQ, …)"
    )
    parser.add_argument("--partitions", type=int, help="of the types to try; our own choice if not given")
    parser.add_argument("--probes", type=int, nargs="+", default=[0], help="0: our own choice")
    parser.add_argument("--refines", type=int, nargs="+", default=[0])
    parser.add_argument("--efs", type=int, nargs="+", default=[0])
    parser.add_argument("--no-faiss", action="store_true")
    options = parser.parse_args()
    data = ClusteredVectors(decay=options.decay)
    queries, query_classes = data.draw(options.queries, 1)
    rows, classes = (np.concatenate(parts) for parts in zip(*data.blocks(options.rows, 2), strict=True))
    print(f"{machine()}; {options.rows:,} x {rows.shape[1]}, {options.queries} queries, decay {options.decay}")
    everything = np.ones(len(rows), bool)
    truths = {
        "whole": exact(rows, queries, everything),
        "one class": exact(rows, queries, everything, (query_classes, classes)),
        "one source": exact(rows, queries, np.arange(len(rows)) % 2 == 0),
        "all but a class": [
            set(found.tolist())
            for found in top_k(queries, cut_blocks(rows, classes), k=K, query_classes=query_classes).rows
        ],
    }
    assert NO_CLASS not in classes
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "workspace"
        made = not folder.exists()
        workspace = Workspace.open(folder)
        workspace.ensure_encoder("clip", rows.shape[1])
        started = time.perf_counter()
        if made:
            write_rows(workspace, rows, classes)
            print(f"rows written in {time.perf_counter() - started:.1f} s")
        maintenance.build_scalar_indices(workspace.dataset("images"))
        for kind in options.index:
            started = time.perf_counter()
            if kind == "ours":
                maintenance.build_vector_index(workspace.dataset("images"), "embedding_clip")
            else:
                extra = {"num_sub_vectors": rows.shape[1] // 8} if kind.endswith("PQ") else {}
                partitions = options.partitions or max(1, len(rows) // maintenance.ROWS_PER_PARTITION)
                workspace.dataset("images").create_index(
                    "embedding_clip", kind, metric="cosine", num_partitions=partitions, replace=True, **extra
                )
            print(f"\n{kind} built in {time.perf_counter() - started:.1f} s")
            for probes in options.probes:
                for refine in options.refines:
                    for ef in options.efs:
                        search.NUM_PROBES = probes or search.NUM_PROBES
                        search.REFINE_FACTOR = refine or search.REFINE_FACTOR
                        if ef:
                            search.SEARCH_WIDTH = search.FILTERED_SEARCH_WIDTH = ef
                        show_ours(workspace, queries, query_classes, truths)
    if not options.no_faiss:
        for name, built, index, set_effort, efforts in faiss_settings(rows):
            print(f"\n{name} built in {built:.1f} s")
            for effort in efforts:
                set_effort(index, effort)
                recall, middle, high = measure(_ask_faiss(index, queries), truths["whole"])
                print(f"  effort {effort:4}: recall {recall:.4f}  p50 {middle:7.2f} ms  p95 {high:7.2f} ms", flush=True)
                if recall >= RECALL:
                    break


def _ask_faiss(index: Any, queries: np.ndarray) -> Callable[[int], Sequence[int]]:
    return lambda number: index.search(queries[number : number + 1], K)[1][0].tolist()


def show_ours(
    workspace: Workspace, queries: np.ndarray, classes: np.ndarray, truths: dict[str, list[set[int]]]
) -> None:
    """One line per filter."""
    print(
        f"  probes {search.NUM_PROBES}, refine {search.REFINE_FACTOR}, ef {search.SEARCH_WIDTH}, with a filter {search.FILTERED_SEARCH_WIDTH}"
    )
    for condition, name in FILTERS.items():

        def ask(number: int, condition: str = condition) -> list[int]:
            where = condition.format(c=classes[number]) or None
            found = workspace.search(queries[number], "clip", k=K, where=where, columns=["id"])
            return [int(one, 16) for one in found["id"].to_pylist()]

        ask(0)  # opens the index
        recall, middle, high = measure(ask, truths[name])
        mark = " <-" if recall >= RECALL else ""
        print(f"    {name:16} recall {recall:.4f}  p50 {middle:7.2f} ms  p95 {high:7.2f} ms{mark}", flush=True)


if __name__ == "__main__":
    main()
