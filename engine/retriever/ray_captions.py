"""The search of a corpus on the cluster: each task searches some fragments of the table of captions, and the best are merged."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.dataflow.resources import choose_ask
from engine.retriever.class_captions import Search, corpus_blocks, corpus_encoder
from engine.retriever.exact_search import TopK
from engine.retriever.many_nearest import many_nearest, merge_nearest
from engine.store import Workspace
from engine.store.captions import caption_fragments

if TYPE_CHECKING:
    from engine.dataflow.run import Run

GPUS_PER_TASK = 0.5
TASKS_PER_WORKER = 4
"""Tasks per place for one, so that a slow node is not waited for long."""


def cluster_search(run: "Run", corpus: str, encoder: str) -> Search:
    """An exact search that is shared out over the cluster of an open run. Raises ValueError as `corpus_encoder` does."""
    corpus_encoder(run.workspace, corpus, encoder)

    def search(queries: np.ndarray, k: int) -> TopK:
        import ray

        run.connect()
        cluster = run.cluster()
        ask = choose_ask(cluster, GPUS_PER_TASK, device=run.device)
        fragments = caption_fragments(run.workspace)
        num_tasks = max(1, min(len(fragments), TASKS_PER_WORKER * max(1, cluster.room(ask))))
        task = ray.remote(num_cpus=ask.num_cpus, num_gpus=ask.num_gpus)(_search)
        shared = ray.put(queries)
        calls: list[Any] = [
            task.remote(run.workspace.uri, corpus, encoder, part.tolist(), shared, k, ask.device)
            for part in np.array_split(np.array(fragments), num_tasks)
        ]
        best: TopK | None = None
        while calls:
            done, calls = ray.wait(calls)
            found, num_rows, seconds = ray.get(done[0])
            best = found if best is None else merge_nearest([best, found], k)
            run.add_work("search captions", num_rows, seconds, ask)
        assert best is not None, "a corpus has a fragment"
        return best

    return search


def _search(
    uri: str, corpus: str, encoder: str, fragments: Sequence[int], queries: np.ndarray, k: int, device: str
) -> tuple[TopK, int, float]:
    """The best rows of some fragments, the number of queries, and the busy seconds."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)  # one task per core
    started = time.perf_counter()
    workspace = Workspace.open(uri, create=False)
    found = many_nearest(queries, lambda: corpus_blocks(workspace, corpus, encoder, fragments), k=k, device=device)
    return found, len(queries), time.perf_counter() - started
