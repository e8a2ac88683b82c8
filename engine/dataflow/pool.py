"""A pool of workers that follows the cluster: leases out, reports in, dead processes replaced, sick devices left alone.

Why not Ray Data's pool: it tries a call again for ever and on the same actor, and the driver never hears of a death. So a
recipe that kills its process never ends, a GPU that fails keeps its calls, and a node that is gone keeps them until it is
back. Here the driver holds the queue, which is the whole difference: each death is seen, counted, and blamed on someone.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.dataflow.attempts import judge, start_notes
from engine.dataflow.leases import Backlog, Lease, LeaseSize
from engine.dataflow.resources import Ask, Cluster
from engine.dataflow.rows import Pricing
from engine.dataflow.worker import Report, Worker, WorkerJob, read_elsewhere
from engine.failures import RunFailed
from engine.models.faults import DeviceFault
from engine.models.preprocessing import Preprocessing
from engine.sources import Plan

CALLS_PER_WORKER = 2
"""Leases that a worker has at once, so that the next one is there when one ends."""
PENDING_WORKERS = 2
"""Workers beyond those that have a place: an autoscaler sees them as demand."""
SICK_AFTER = 3
"""Workers in a row that a GPU may lose, with different leases, before it is left alone."""
MAX_START_DEATHS = 6
"""Workers in a row that may die while they start."""
LOOK_SECONDS = 2.0
"""How often the cluster's nodes are looked at."""
WAIT_LINE_SECONDS = 30.0
"""How often a line says that the pool waits for a place."""

_NO_RECIPE: np.ndarray = np.empty(0, np.int64)
DeviceKey = tuple[str, tuple[str, ...]]
"""Node and GPUs."""


@dataclass(eq=False)
class _Slot:
    """A worker and what it was given."""

    actor: Any
    ready: Any = None
    """What it is waited for while it starts: its place first, then its models."""
    place: DeviceKey | None = None
    preprocessing: Preprocessing | None = None
    calls: "deque[_Call]" = field(default_factory=deque)
    """In the order in which they run; only the first one has begun."""
    unwritten: list[Lease] = field(default_factory=list)
    """Leases that are made and whose rows no receipt has named yet."""
    is_proved: bool = False
    """It has made something, so a death from now on is not its device's fault alone."""
    is_guard: bool = False
    """It lies on a GPU that is left alone, and keeps other workers off it."""

    @property
    def is_ready(self) -> bool:
        return self.preprocessing is not None and not self.is_guard


@dataclass(eq=False)
class _Call:
    ref: Any
    lease: Lease | None
    """None for a flush."""
    token: str = ""


@dataclass(eq=False)
class _Reading:
    lease: Lease
    token: str
    count: Any
    block: Any


class Pool:
    """Runs a backlog through workers; a context manager, which ends them."""

    def __init__(
        self,
        backlog: Backlog,
        plan: Plan,
        job: WorkerJob,
        ask: Ask,
        look: Callable[[], Cluster],
        price: Callable[[Ask], Pricing],
        max_workers: int | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        import ray

        self._backlog, self._job, self.ask, self._look = backlog, job, ask, look
        self._plan = ray.put(plan)
        self._maker = ray.put(job.maker)
        self._price, self._most = price, max_workers
        self._say = say
        self._size = LeaseSize(job.maker.rows_per_call)
        self._slots: list[_Slot] = []
        self._notes: Any = None
        self._suspects: deque[Lease] = deque()
        self._reading: list[_Reading] = []
        self._read: deque[_Reading] = deque()
        self._preprocessing: Preprocessing | None = None
        self._start_deaths = 0
        self._tokens = 0
        self._looked = self._waited = -1e9
        self._cluster = look()
        self._lost: dict[DeviceKey, list[np.ndarray]] = {}
        self.sick: set[DeviceKey] = set()
        """GPUs that are left alone."""
        self.killers: list[tuple[int, str]] = []
        """Indices whose process died each time, with the reason; the caller makes error rows of them, and clears the list."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._backlog.close()
        for reading in self._reading:
            ray.cancel(reading.count, force=True)
        for slot in self._slots:
            ray.kill(slot.actor)
        if self._notes is not None:
            ray.kill(self._notes)

    def reports(self) -> Iterator[Report]:
        """Reports as they come, until the backlog is empty and all is written. An empty report passes the time.

        Raises:
            ValueError: a model cannot be loaded; the one sentence of the worker.
            RunFailed: workers die while they start; every GPU fails.
        """
        while True:
            self._follow_cluster()
            self._hand_out()
            refs = [slot.ready for slot in self._slots if slot.ready is not None]
            refs += [slot.calls[0].ref for slot in self._slots if slot.calls]
            refs += [reading.count for reading in self._reading]
            if not any(slot.calls or slot.unwritten for slot in self._slots) and not self._is_work_left():
                return
            yield from self._wait(refs)

    def make_again(self, indices: list[int]) -> None:
        """Puts back indices whose receipt was refused or never came."""
        self._backlog.put_back_indices(indices)

    def _is_work_left(self) -> bool:
        return bool(self._reading or self._read or self._suspects or self._backlog)

    def _wait(self, refs: list[Any]) -> Iterator[Report]:
        import ray

        if not refs:
            time.sleep(0.2)
            yield Report()
            return
        done, _ = ray.wait(refs, num_returns=1, timeout=0.5, fetch_local=False)
        if not done:
            yield Report()
            return
        (ref,) = done
        for reading in self._reading:
            if reading.count == ref:
                self._end_reading(reading)
                yield Report()
                return
        for slot in self._slots:
            if slot.ready is not None and slot.ready == ref:
                self._end_start(slot)
                yield Report()
                return
            if slot.calls and slot.calls[0].ref == ref:
                yield self._end_call(slot)
                return

    # the workers

    def _follow_cluster(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._cluster = now, self._look()
        workers = [slot for slot in self._slots if not slot.is_guard]
        placed = sum(slot.place is not None for slot in workers)
        room = max(0, self._cluster.room(self.ask) - (len(self._slots) - len(workers)))
        if self.sick and not room and not placed:
            raise RunFailed(f"every GPU of the cluster failed ({self._names_of_sick()}); look at these nodes")
        if self._cluster.may_grow:
            room = max(room, placed) + PENDING_WORKERS
        for _ in range(min(room, self._demand(), self._most or room) - len(workers)):
            self._start_worker()
        self._retire_idle()
        if not any(slot.place for slot in self._slots) and self._is_work_left():
            self._say_waiting(now)

    def _demand(self) -> int:
        """Workers that could have something to do."""
        waiting = -(-self._backlog.most_left // self._job.maker.rows_per_call)
        given = sum(len(slot.calls) + len(slot.unwritten) > 0 for slot in self._slots)
        return waiting + given + len(self._suspects) + len(self._reading) + len(self._read)

    def _start_worker(self) -> None:
        import ray

        options = {"num_cpus": self.ask.num_cpus, "num_gpus": self.ask.num_gpus}
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(Worker).remote(self._plan, self._job)
        self._slots.append(_Slot(actor, actor.where.remote()))

    def _retire_idle(self) -> None:
        """Ends workers for which nothing is left, so that their node may go."""
        import ray

        if self._is_work_left():
            return
        for slot in list(self._slots):
            if not slot.calls and not slot.unwritten and not slot.is_guard:
                ray.kill(slot.actor)
                self._slots.remove(slot)

    def _end_start(self, slot: _Slot) -> None:
        import ray

        try:
            answer = ray.get(slot.ready)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, DeviceFault):
                self._lose(slot, str(cause), _NO_RECIPE)
                return
            if isinstance(cause, ValueError):  # the one clear sentence of a worker
                raise cause from None
            raise
        except ray.exceptions.RayActorError as error:
            is_alive = self._is_node_alive(slot)
            self._start_deaths += is_alive
            if self._start_deaths >= MAX_START_DEATHS:
                raise RunFailed(
                    f"{MAX_START_DEATHS} workers in a row died while they started ({_short(error)}); look for what ends "
                    "them, memory that runs out most often, or use a smaller model or fewer workers"
                ) from None
            self._lose(slot, _short(error), _NO_RECIPE if is_alive else None)
            return
        if isinstance(answer, Preprocessing):
            slot.ready, slot.preprocessing, self._preprocessing = None, answer, answer
            self._start_deaths = 0
            return
        node, gpus = answer
        slot.place = (node, tuple(gpus))
        if slot.place in self.sick:
            slot.ready, slot.is_guard = None, True
        else:
            slot.ready = slot.actor.load.remote(self._price(self.ask))

    def _lose(self, slot: _Slot, reason: str, culprit: np.ndarray | None) -> None:
        """Ends a worker that died or may not go on, and puts back what it had.

        Args:
            slot: the worker.
            reason: why, for people.
            culprit: indices that were being made when its process failed; None where its node or the network failed.
        """
        import ray

        ray.kill(slot.actor)  # one that only cannot be reached must not go on beside its successor
        self._slots.remove(slot)
        self._put_back(*(call.lease for call in slot.calls if call.lease is not None), *slot.unwritten)
        if culprit is None or slot.place is None or not slot.place[1]:
            return
        lost = self._lost.setdefault(slot.place, [])
        if not any(np.isin(culprit, earlier).any() for earlier in lost):  # a recipe that kills again says nothing new
            lost.append(culprit)
        if len(lost) >= SICK_AFTER:
            self.sick.add(slot.place)
            self._say(
                f"GPU {', '.join(slot.place[1])} of node {slot.place[0][:8]} ended {SICK_AFTER} workers in a row and is "
                f"left alone ({reason})"
            )

    def _is_node_alive(self, slot: _Slot) -> bool:
        import ray

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return slot.place is None or slot.place[0] in alive

    # the leases

    def _hand_out(self) -> None:
        self._start_reading()
        for slot in self._slots:
            while slot.is_ready and len(slot.calls) < CALLS_PER_WORKER and self._give(slot):
                pass
            if slot.is_ready and not slot.calls and slot.unwritten:
                slot.calls.append(_Call(slot.actor.flush.remote(), None))

    def _give(self, slot: _Slot) -> bool:
        """Gives a worker its next lease; a suspect gets a worker of its own, and no two workers have suspects at once."""
        if any(call.lease and call.lease.care for call in slot.calls):
            return False
        # first a lease that is no suspect, so that a sick device is not mistaken for a recipe that kills
        is_tried = slot.is_proved or not (self._read or self._backlog)
        if suspect := self._suspect(reads_elsewhere=False) if is_tried and not slot.calls else None:
            self._call(slot, suspect)
            return True
        if self._read:
            reading = self._read.popleft()
            self._call(slot, reading.lease, reading.block)
            return True
        if self._reads_elsewhere and self._backlog.next_reads:
            return False
        lease = self._backlog.take(self._rows_of_next)
        if lease is None:
            return False
        self._call(slot, lease)
        return True

    def _suspect(self, reads_elsewhere: bool) -> Lease | None:
        """The next suspect of a kind, if none is out: so that a killer never has two workers at once."""
        for lease in self._suspects:
            if (lease.reads and self._reads_elsewhere) == reads_elsewhere and not self._is_suspect_out():
                self._suspects.remove(lease)
                return lease
        return None

    def _is_suspect_out(self) -> bool:
        out = (call.lease for slot in self._slots for call in slot.calls)
        return any(lease and lease.care for lease in out) or any(one.lease.care for one in self._reading)

    def _rows_of_next(self, reads: bool) -> int:
        ready = sum(slot.is_ready for slot in self._slots)
        return self._size.next(reads, self._backlog.most_left, ready)

    def _call(self, slot: _Slot, lease: Lease, block: Any = None) -> None:
        token = self._new_token()
        notes = self._notes_of(lease)
        slot.calls.append(_Call(slot.actor.make.remote(lease, token, notes, block), lease, token))

    def _new_token(self) -> str:
        self._tokens += 1
        return str(self._tokens)

    def _notes_of(self, lease: Lease) -> Any:
        if not lease.care:
            return None
        if self._notes is None:
            self._notes = start_notes()
        return self._notes

    def _put_back(self, *leases: Lease) -> None:
        for lease in leases:
            if lease.care:
                self._suspects.append(lease)
            else:
                self._backlog.put_back(lease)

    def _end_call(self, slot: _Slot) -> Report:
        import ray

        call = slot.calls[0]
        try:
            report: Report = ray.get(call.ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DeviceFault):
                slot.calls.popleft()
                self._blame(slot, call, str(error.cause))
                return Report()
            if isinstance(error.cause, ray.exceptions.ObjectLostError):  # the block of read images went with its node
                slot.calls.popleft()
                self._put_back(*([call.lease] if call.lease else []))
                return Report()
            if isinstance(error.cause, ValueError | OSError):
                raise error.cause from None
            raise
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            slot.calls.popleft()
            # a process that only cannot be reached, or that went with its node, says nothing about its lease
            vanished = isinstance(error, ray.exceptions.ActorUnavailableError) or not self._is_node_alive(slot)
            self._blame(slot, call, _short(error), is_guilty=not vanished)
            return Report()
        except ray.exceptions.ObjectLostError:
            slot.calls.popleft()
            self._put_back(*([call.lease] if call.lease else []))
            return Report()
        slot.calls.popleft()
        self._take(slot, call, report)
        return report

    def _take(self, slot: _Slot, call: _Call, report: Report) -> None:
        if call.lease is None:
            slot.unwritten.clear()
            return
        slot.is_proved = True
        if slot.place:
            self._lost.pop(slot.place, None)
        made = call.lease.indices
        if report.rest is not None:
            made = made[: len(made) - len(report.rest)]
            self._put_back(replace(call.lease, indices=report.rest))
        self._size.learn(call.lease.reads, report.rows, report.seconds)
        slot.unwritten.append(replace(call.lease, indices=made, care=0, deaths=0))
        self._strike_out(slot, report)

    @staticmethod
    def _strike_out(slot: _Slot, report: Report) -> None:
        written = [np.asarray(receipt.indices, np.int64) for receipt in report.receipts]
        if not written:
            return
        named = np.concatenate(written)
        left = []
        for lease in slot.unwritten:
            indices = lease.indices[~np.isin(lease.indices, named)]
            if len(indices):
                left.append(replace(lease, indices=indices))
        slot.unwritten = left

    def _blame(self, slot: _Slot, call: _Call, reason: str, is_guilty: bool = True) -> None:
        """Takes a death during a call; the lease is innocent where the node or the network failed."""
        culprit = call.lease.indices if call.lease is not None else _NO_RECIPE
        self._lose(slot, reason, culprit if is_guilty else None)
        if call.lease is None:
            return
        what = "its recipes are tried again with care" if is_guilty else "its recipes are made elsewhere"
        self._say(f"a worker died ({reason}); {what}")
        if is_guilty:
            self._judge(call.lease, call.token, reason)
        else:
            self._put_back(call.lease)

    def _judge(self, lease: Lease, token: str, reason: str) -> None:
        import ray

        noted = ray.get(self._notes.last.remote(token)) if lease.care else None
        verdict = judge(lease, noted)
        self._put_back(*verdict.again)
        self.killers += [(index, f"its process died each time it was made ({reason})") for index in verdict.killers]

    # reading on other processors

    @property
    def _reads_elsewhere(self) -> bool:
        """Where workers hold GPUs, reading and decoding is for the processors, anywhere in the cluster, if one is left."""
        return self.ask.num_gpus > 0 and self._cluster.has_spare_cpu(self.ask)

    def _start_reading(self) -> None:
        """Keeps some blocks ahead of the workers."""
        ready = sum(slot.is_ready for slot in self._slots)
        while self._reads_elsewhere and self._preprocessing and len(self._reading) + len(self._read) < 2 * ready:
            lease = self._next_to_read()
            if lease is None:
                return
            self._read_elsewhere(lease)

    def _next_to_read(self) -> Lease | None:
        if suspect := self._suspect(reads_elsewhere=True):
            return suspect
        return self._backlog.take(self._rows_of_next) if self._backlog.next_reads else None

    def _read_elsewhere(self, lease: Lease) -> None:
        import ray

        token = self._new_token()
        task = ray.remote(num_cpus=1, max_retries=0, num_returns=2)(read_elsewhere)
        count, block = task.remote(self._plan, self._maker, lease, self._preprocessing, token, self._notes_of(lease))
        self._reading.append(_Reading(lease, token, count, block))

    def _end_reading(self, reading: _Reading) -> None:
        import ray

        self._reading.remove(reading)
        try:
            made = ray.get(reading.count)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            self._judge(reading.lease, reading.token, _short(error))
            return
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError):
            self._put_back(reading.lease)
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ValueError | OSError):
                raise error.cause from None
            raise
        if made < len(reading.lease):
            self._put_back(replace(reading.lease, indices=reading.lease.indices[made:]))
        # what a processor could read a device can embed, so it is no suspect any more
        reading.lease = replace(reading.lease, indices=reading.lease.indices[:made], care=0, deaths=0)
        self._read.append(reading)

    # words

    def _say_waiting(self, now: float) -> None:
        if now - self._waited >= WAIT_LINE_SECONDS and self._waited > 0:
            what = f"{self.ask.num_gpus:g} GPU" if self.ask.num_gpus else f"{self.ask.num_cpus:g} CPU"
            self._say(f"waiting for a place: a worker needs {what}, and the cluster has none free yet")
        if self._waited < 0 or now - self._waited >= WAIT_LINE_SECONDS:
            self._waited = now

    def _names_of_sick(self) -> str:
        return ", ".join(f"GPU {'+'.join(gpus)} of node {node[:8]}" for node, gpus in sorted(self.sick))


def _short(error: BaseException) -> str:
    """The first line of Ray's words that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
