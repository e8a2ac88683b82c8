"""The search of a corpus on the cluster: each worker searches some fragments of the table of captions, and the best are merged."""

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.dataflow.apply import MAX_RESTARTS
from engine.dataflow.attempts import first_line
from engine.dataflow.resources import CPU_ASK, choose_ask
from engine.failures import RunFailed
from engine.retriever.class_captions import corpus_blocks, corpus_encoder
from engine.retriever.exact_search import TopK
from engine.retriever.many_nearest import many_nearest, merge_nearest
from engine.store import Workspace
from engine.store.captions import caption_fragments

if TYPE_CHECKING:
    from engine.dataflow.run import Run

GPUS_PER_WORKER = 0.5
PARTS_PER_WORKER = 4
"""Parts of the table per worker, so that a slow node is not waited for long."""
CALLS_PER_WORKER = 2
"""Parts that a worker has at once, so that it never waits for the next."""


class ClusterSearch:
    """An exact search that is shared out over the cluster of an open run; its workers live as long as it does.

    They are actors and no tasks: a class's list may have to grow, and on GPUs each task would start a process of its own.
    """

    def __init__(self, run: "Run", corpus: str, encoder: str, *, in_ledger: bool = True):
        """`in_ledger`: whether its work gets a row of its own there; `seconds` has it in any case.

        Raises ValueError as `corpus_encoder` does.
        """
        corpus_encoder(run.workspace, corpus, encoder)
        self._run, self._corpus, self._encoder, self._in_ledger = run, corpus, encoder, in_ledger
        self._workers: list[Any] = []
        self.seconds = 0.0
        """Busy seconds so far."""
        self.ask = CPU_ASK
        """What each worker holds."""

    def __call__(self, queries: np.ndarray, k: int) -> TopK:
        """The `k` best captions of each query `[Q, D]` float32. Raises RunFailed if workers die repeatedly."""
        self._run.connect()  # sets Ray's token, which Ray reads when it is imported
        import ray

        fragments = caption_fragments(self._run.workspace)
        workers = self._ready(len(fragments))
        num_parts = min(len(fragments), PARTS_PER_WORKER * len(workers))
        parts, shared = deque(np.array_split(np.array(fragments), num_parts)), ray.put(queries)
        calls: dict[Any, Any] = {}
        idle = deque(workers * CALLS_PER_WORKER)
        best: TopK | None = None
        try:
            while parts or calls:
                while parts and idle:
                    worker = idle.popleft()
                    calls[worker.search.remote(parts.popleft().tolist(), shared, k)] = worker
                done, _ = ray.wait([*calls])
                idle.append(calls.pop(done[0]))
                found, seconds = ray.get(done[0])
                best = found if best is None else merge_nearest([best, found], k)
                self.seconds += seconds
                if self._in_ledger:
                    self._run.add_work("search captions", len(queries), seconds, self.ask)
        except ray.exceptions.RayActorError as error:
            raise RunFailed(
                f"workers that search captions die repeatedly ({first_line(error)}); run it again"
            ) from error
        assert best is not None, "a corpus has a fragment"
        return best

    def _ready(self, num_fragments: int) -> list[Any]:
        import ray

        run = self._run
        cluster = run.cluster()
        ask = self.ask = choose_ask(cluster, GPUS_PER_WORKER, device=run.device)
        actor = ray.remote(
            num_cpus=ask.num_cpus, num_gpus=ask.num_gpus, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
        )(_Searcher)
        room = min(num_fragments, max(1, cluster.room(ask)))
        self._workers += [
            actor.remote(run.workspace.uri, self._corpus, self._encoder, ask.device)
            for _ in range(room - len(self._workers))
        ]
        return self._workers


def cluster_search(run: "Run", corpus: str, encoder: str, *, in_ledger: bool = True) -> ClusterSearch:
    """An exact search that is shared out over the cluster of an open run. Raises ValueError as `corpus_encoder` does."""
    return ClusterSearch(run, corpus, encoder, in_ledger=in_ledger)


class _Searcher:
    """Actor: searches fragments."""

    def __init__(self, uri: str, corpus: str, encoder: str, device: str):
        import torch

        if device == "cpu":
            torch.set_num_threads(1)  # one worker per core
        self._workspace = Workspace.open(uri, create=False)
        self._corpus, self._encoder, self._device = corpus, encoder, device

    def search(self, fragments: Sequence[int], queries: np.ndarray, k: int) -> tuple[TopK, float]:
        """The best rows of some fragments, and the busy seconds."""
        started = time.perf_counter()
        found = many_nearest(
            queries,
            lambda: corpus_blocks(self._workspace, self._corpus, self._encoder, fragments),
            k=k,
            device=self._device,
        )
        return found, time.perf_counter() - started
