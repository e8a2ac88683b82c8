"""Captions into a corpus: processors read and clean the tables, workers embed the captions, one committer keeps them, once."""

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.catalog.caption_tables import RowRules, TablePart, read_part
from engine.catalog.captions import KeySet
from engine.dataflow.apply import MAX_RESTARTS
from engine.dataflow.resources import Ask, choose_ask
from engine.failures import RunFailed
from engine.models import ImageEncoder, load_encoder
from engine.models.faults import is_device_fault
from engine.progress import Progress
from engine.recipe import embedding_column
from engine.store import Committer, Receipt, write_fragments
from engine.store.captions import caption_key_batches
from engine.store.vectors import from_matrix

if TYPE_CHECKING:
    from engine.dataflow.run import Run

GPUS_PER_WORKER = 0.5
"""A text tower leaves most of a GPU idle while its tokenizer works, so two share one."""
CALLS_PER_WORKER = 2
"""Parts that a worker has at once, so that it never waits for the next."""
LOOK_SECONDS = 5.0
"""Seconds between two looks at the size of the cluster."""
DUPLICATE = "ignored: a near-duplicate of an earlier caption"
NOT_FINITE = "refused: the embedding is not finite"


@dataclass(frozen=True)
class CaptionJob:
    """Everything that the workers need; picklable."""

    uri: str
    """URI of the workspace."""
    location: str
    """Folder or URL of the tables."""
    corpus: str
    rules: RowRules
    encoder: str
    """Name of the embeddings, revision included."""
    source: str
    """Source from which workers load the encoder."""
    load_encoder: Callable[..., ImageEncoder] = load_encoder


@dataclass
class Ingested:
    """Counts of rows by what became of them."""

    used: int = 0
    left: Counter[str] = field(default_factory=Counter)
    """`ignored: …` or `refused: …` → number of rows."""


@dataclass
class _Work:
    """A part on its way."""

    part: TablePart
    left: Counter[str] = field(default_factory=Counter)
    table: Any = None
    """Reference to its rows."""
    answer: Any = None
    """Reference to the keys and reasons of the reader, then to the receipt of the worker."""


def ingest(run: "Run", job: CaptionJob, parts: Sequence[TablePart], settings: str) -> Ingested:
    """Embeds the captions of parts that are not done and commits them, each distinct caption of the corpus once.

    Which of several near-duplicates is kept depends on the order of the parts alone: keys are claimed in that order.

    Args:
        run: an open run over the workspace, whose caption tables are guarded (`guard_captions`).
        job: what the workers need.
        parts: in the order of the corpus.
        settings: kept with each part.

    Raises:
        ValueError: the encoder cannot be loaded.
        RunFailed: workers die repeatedly, or commits fail permanently.
    """
    run.connect()
    ask = choose_ask(run.cluster(), GPUS_PER_WORKER, device=run.device)
    keys = KeySet(caption_key_batches(run.workspace, job.corpus))
    progress = Progress(f"corpus {job.corpus}", sum(part.num_rows for part in parts), run_id=run.run_id)
    found = Ingested()
    with (
        Committer(run.workspace, every_seconds=run.commit_every_seconds) as committer,
        _Accounts(run, job, committer, settings) as accounts,
    ):
        for work, receipt, seconds in _embedded(run, job, parts, ask, keys):
            usd = 0.0
            if receipt is not None:
                found.used += receipt.rows
                usd = run.add_work("embed captions", receipt.rows, seconds, ask)
            found.left.update(work.left)
            accounts.add(work, receipt)
            refused = sum(number for reason, number in work.left.items() if reason.startswith("refused"))
            progress.add(work.part.num_rows - refused, refused, usd)
            progress.show()
            run.renew()
    progress.close()
    return found


class _Accounts:
    """The account of each part, committed with its captions and after them."""

    def __init__(self, run: "Run", job: CaptionJob, committer: Committer, settings: str):
        self._run, self._job, self._committer, self._settings = run, job, committer, settings
        self._rows: list[dict[str, Any]] = []
        self._settled = time.monotonic()

    def __enter__(self) -> "_Accounts":
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()  # what is finished is kept, however the others end

    def add(self, work: _Work, receipt: Receipt | None) -> None:
        """Takes a part that is done."""
        if receipt is not None and receipt.rows:
            self._committer.add(receipt)
        self._rows.append(
            {
                "corpus": self._job.corpus,
                "encoder": self._job.encoder,
                "part": work.part.number(self._job.corpus),
                "file": work.part.file,
                "start": work.part.start,
                "rows": work.part.num_rows,
                "used": receipt.rows if receipt is not None else 0,
                "left": json.dumps(work.left, sort_keys=True),
                "settings": self._settings,
                "run_id": self._run.run_id,
            }
        )
        if time.monotonic() - self._settled >= self._run.commit_every_seconds:
            self._settle()
            self._committer.flush()

    def _settle(self) -> None:
        if self._rows:
            self._committer.add(
                write_fragments(self._run.workspace.uri, "caption_parts", pa.Table.from_pylist(self._rows))
            )
        self._rows, self._settled = [], time.monotonic()


def _embedded(
    run: "Run", job: CaptionJob, parts: Sequence[TablePart], ask: Ask, keys: KeySet
) -> Iterator[tuple[_Work, Receipt | None, float]]:
    """Each part with the receipt of its rows and the busy seconds; None for a part that cannot be read."""
    import ray

    # on a cluster whose processors all hold workers, readers have none of their own: their work is a few percent
    spare = run.cluster().spare_cpus(ask)
    read = ray.remote(num_cpus=1 if spare else 0, num_returns=2, max_retries=MAX_RESTARTS)(_read)
    waiting, reading, ready = deque(parts), deque[_Work](), deque[_Work]()
    workers: list[_Slot] = []
    looked = 0.0
    try:
        while waiting or reading or ready or any(slot.calls for slot in workers):
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                room = min(max(1, run.cluster().room(ask)), run.max_workers or len(parts), len(parts))
                workers += [_Slot(job, ask) for _ in range(room - len(workers))]
            while waiting and len(reading) + len(ready) < max(2 * len(workers), spare):
                work = _Work(waiting.popleft())
                work.answer, work.table = read.remote(job, work.part)
                reading.append(work)
            for slot in workers:
                while ready and len(slot.calls) < CALLS_PER_WORKER:
                    slot.give(ready.popleft())
            refs = [slot.calls[0].answer for slot in workers if slot.calls] + [
                work.answer for work in list(reading)[:1]
            ]
            done, _ = ray.wait(refs, timeout=0.5) if refs else ([], [])
            if reading and reading[0].answer in done:
                work = reading.popleft()
                taken = _taken(work, keys)
                if taken is None:
                    yield work, None, 0.0
                else:
                    work.answer = ray.put(taken)
                    ready.append(work)
            for slot in workers:
                if slot.calls and slot.calls[0].answer in done:
                    work = slot.calls.popleft()
                    receipt, num_bad, seconds = slot.result(work)
                    if num_bad:
                        work.left[NOT_FINITE] += num_bad
                    yield work, receipt, seconds
    finally:
        for slot in workers:
            ray.kill(slot.actor)


def _taken(work: _Work, keys: KeySet) -> np.ndarray | None:
    """Which rows of a part are kept, `[N] bool`; None if it cannot be read."""
    import ray

    found: np.ndarray | str
    found, left = ray.get(work.answer)
    if isinstance(found, str):
        work.left[f"refused: {found}"] += work.part.num_rows
        return None
    work.left.update(left)
    is_new = keys.claim(found)
    if number := int((~is_new).sum()):
        work.left[DUPLICATE] += number
    return is_new


def _read(job: CaptionJob, part: TablePart) -> tuple[Any, Any]:
    """On a processor: (keys and reasons), and the rows; (a sentence and nothing) if the part cannot be read."""
    try:
        rows = read_part(job.location, part, job.rules)
    except ValueError as error:
        return (str(error), {}), None
    return (rows.keys, rows.left), rows.table.append_column("key", pa.array(rows.keys, pa.int64()))


class _Slot:
    """A worker and its calls."""

    def __init__(self, job: CaptionJob, ask: Ask):
        import ray

        self._job = job
        self.calls: deque[_Work] = deque()
        self.actor = ray.remote(
            num_cpus=ask.num_cpus, num_gpus=ask.num_gpus, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
        )(_Embedder).remote(job, ask.device)

    def give(self, work: _Work) -> None:
        """Gives it one more part."""
        number = work.part.number(self._job.corpus)
        work.answer = self.actor.embed.remote(number, work.table, work.answer)
        self.calls.append(work)

    def result(self, work: _Work) -> tuple[Receipt, int, float]:
        """The receipt of a part that is done, the number of its captions without an embedding, and the busy seconds."""
        import ray

        try:
            values, num_bad, seconds = ray.get(work.answer)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise error.cause from None
            raise RunFailed(f"embedding the captions stopped ({error.cause}); run it again to go on") from error
        except ray.exceptions.RayActorError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            raise RunFailed(
                f"workers that embed captions die repeatedly ({reason}); look for what ends them, memory that runs out most "
                "often, and run it again to go on"
            ) from error
        return Receipt.from_dict(values), num_bad, seconds


class _Embedder:
    """Actor: embeds captions and writes them; what it has written is invisible until its receipt is committed."""

    def __init__(self, job: CaptionJob, device: str):
        self._job, self._device = job, device
        self._encoder: ImageEncoder | None = None

    def embed(self, part: int, table: pa.Table, is_kept: np.ndarray) -> tuple[dict[str, Any], int, float]:
        """Receipt, captions without a finite embedding, busy seconds."""
        if self._encoder is None:  # here and not in the constructor, whose errors Ray takes for a death
            import torch

            if self._device == "cpu":
                torch.set_num_threads(1)  # one actor per core
            self._encoder = self._job.load_encoder(self._job.source, device=self._device)
        started = time.perf_counter()
        table = table.filter(pa.array(is_kept))
        try:
            vectors = self._encoder.encode_texts(table["caption"].to_pylist())
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            print(error, file=sys.stderr, flush=True)
            os._exit(1)  # Ray gives the part to a new process
        is_finite = np.isfinite(vectors).all(axis=1)
        num_bad = int((~is_finite).sum())
        if num_bad:
            table, vectors = table.filter(pa.array(is_finite)), vectors[is_finite]
        if table.num_rows:
            columns = {
                "corpus": pa.array([self._job.corpus] * table.num_rows, pa.string()),
                "part": pa.array(np.full(table.num_rows, part, np.int64)),
                embedding_column(self._job.encoder): from_matrix(vectors.astype(np.float16)),
            }
            for name, column in columns.items():
                table = table.append_column(name, column)
            receipt = write_fragments(self._job.uri, "captions", table)
        else:
            receipt = Receipt(table_name="captions", fragments=[], rows=0)
        return receipt.to_dict(), num_bad, time.perf_counter() - started
