"""A pool of workers that follows the cluster: it gives leases, takes reports, replaces dead processes, avoids bad GPUs.

Ray Data's pool does not fit: it retries a call for ever on the same actor, and the driver never hears of a death. So a
recipe that kills its process never ends, a failing GPU keeps its calls, and a lost node keeps its calls until it
returns. Here the driver holds the queue, so each death is seen, counted, and blamed on its cause.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.dataflow.attempts import Suspects, Verdict, first_line, told
from engine.dataflow.devices import Devices, Place
from engine.dataflow.leases import Backlog, Lease, LeaseSize
from engine.dataflow.readers import BLOCKS_AHEAD, Readers
from engine.dataflow.resources import CPU_ASK, Ask, Cluster
from engine.dataflow.rows import Pricing
from engine.dataflow.worker import Report, Worker, WorkerJob
from engine.failures import RunFailed
from engine.models.faults import DeviceFault
from engine.models.preprocessing import Preprocessing
from engine.sources import Plan

CALLS_PER_WORKER = 2
"""Leases that a worker holds at once, so that the next one is ready when one ends."""
PENDING_WORKERS = 2
"""Number of workers requested beyond those that fit; an autoscaler sees them as demand."""
MAX_START_DEATHS = 6
"""Number of workers in a row that may die while they start."""
LOOK_SECONDS = 2.0
"""Seconds between two looks at the cluster's nodes."""
WAIT_LINE_SECONDS = 30.0
"""Seconds between two lines that say that the pool waits for resources."""

_NO_RECIPE: np.ndarray = np.empty(0, np.int64)


@dataclass(eq=False)
class _Call:
    ref: Any
    lease: Lease | None
    """None for a flush."""
    token: str = ""


@dataclass(eq=False)
class _Slot:
    """A worker and its work."""

    actor: Any
    starting: Any = None
    """Reference that the pool waits for while the worker starts: first its place, then its models."""
    place: Place | None = None
    is_ready: bool = False
    calls: deque[_Call] = field(default_factory=deque)
    """In the order of execution; only the first one has begun."""
    unwritten: list[Lease] = field(default_factory=list)
    """Leases that are made but whose rows are in no receipt yet."""
    is_proved: bool = False
    """Whether it has made something, so that a later death is not blamed on its device alone."""
    is_guard: bool = False
    """Whether it occupies a GPU that is no longer used, to keep other workers off it."""

    @property
    def is_busy(self) -> bool:
        return bool(self.calls or self.unwritten)

    def strike_out(self, report: Report) -> None:
        """Removes the rows that the receipts name from the unwritten leases."""
        written = [np.asarray(receipt.indices, np.int64) for receipt in report.receipts]
        if written:
            named = np.concatenate(written)
            left = [replace(one, indices=one.indices[~np.isin(one.indices, named)]) for one in self.unwritten]
            self.unwritten = [lease for lease in left if len(lease)]


class Pool:
    """Runs a backlog through workers; a context manager that ends them."""

    def __init__(
        self,
        backlog: Backlog,
        plan: Plan,
        job: WorkerJob,
        ask: Ask,
        look: Callable[[], Cluster],
        price: Callable[[Ask, str], Pricing],
        max_workers: int | None = None,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        import ray

        self.ask = ask
        self.killers: list[tuple[int, str]] = []
        """Indices whose process died each time, with the reason; the caller makes error rows of them and clears this."""
        self._backlog, self._job, self._look, self._price = backlog, job, look, price
        self._max_workers, self._say = max_workers, say
        self._plan = ray.put(plan)
        self._size = LeaseSize(job.maker.rows_per_call)
        self._slots: list[_Slot] = []
        self._suspects = Suspects()
        self._devices = Devices(say)
        self._readers = Readers(self._plan, ray.put(job.maker), self._suspects, self._put_back)
        self._sizes: list[Preprocessing | None] | None = None
        """Image sizes that the workers' stages take; known once one of them is loaded."""
        self._keeps_idle = False
        self._start_deaths = 0
        self._cluster = look()
        self._looked = self._placed = time.monotonic()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._backlog.close()
        self._readers.close()
        self._suspects.close()
        for slot in self._slots:
            ray.kill(slot.actor)

    def reports(self) -> Iterator[Report]:
        """Yields reports as they come, until the backlog is empty and all is written; some are empty.

        Raises:
            ValueError: a model cannot be loaded; the message is the worker's one sentence.
            RunFailed: workers die while they start, or every GPU fails.
        """
        while True:
            self._follow_cluster()
            self._start_reading()
            self._hand_out()
            if not any(slot.is_busy for slot in self._slots) and not self._is_work_left():
                return
            yield self._wait()

    def adopt(self, slots: Sequence["_Slot"], sizes: list[Preprocessing | None] | None) -> None:
        """Takes over workers that another pool has released; idle ones stay until `release`."""
        for slot in slots:
            slot.actor.follow.remote(self._plan)
        self._slots, self._sizes, self._keeps_idle = [*slots], sizes, True

    def release(self) -> "tuple[list[_Slot], list[Preprocessing | None] | None]":
        """Gives its idle workers away, with the sizes of the images that they take."""
        found = [slot for slot in self._slots if slot.is_ready and not slot.is_busy and not slot.is_guard]
        self._slots = [slot for slot in self._slots if slot not in found]
        return found, self._sizes

    def make_again(self, indices: list[int]) -> None:
        """Puts back indices whose receipt was refused or never came."""
        self._backlog.put_back_indices(indices)

    def _is_work_left(self) -> bool:
        return bool(self._readers or self._suspects or self._backlog)

    def _wait(self) -> Report:
        """Waits for one event, half a second at most."""
        import ray

        starting = {slot.starting: slot for slot in self._slots if slot.starting is not None}
        calling = {slot.calls[0].ref: slot for slot in self._slots if slot.calls}
        refs = [*calling, *starting, *self._readers.refs]
        if not refs:
            time.sleep(0.2)
            return Report()
        done, _ = ray.wait(refs, num_returns=1, timeout=0.5, fetch_local=False)
        for ref in done:
            if ref in calling:
                return self._end_call(calling[ref])
            if ref in starting:
                self._end_start(starting[ref])
            elif found := self._readers.end(ref):
                self._carry_out(*found)
        return Report()

    def _follow_cluster(self) -> None:
        """Starts workers if there is room and work for them, and ends those without either."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._cluster = now, self._look()
        self._retire_idle(self._is_leaving)
        workers = [slot for slot in self._slots if not slot.is_guard and not self._is_leaving(slot)]
        placed = sum(slot.place is not None for slot in workers)
        room = max(0, self._cluster.room(self.ask) - sum(slot.is_guard for slot in self._slots))
        if self._devices.sick and not room and not placed:
            raise RunFailed(f"every GPU of the cluster failed ({self._devices}); look at these nodes")
        if self._cluster.may_grow:
            room = max(room, placed) + PENDING_WORKERS
        for _ in range(min(room, self._demand(), self._max_workers or room) - len(workers)):
            self._start_worker()
        if not self._is_work_left() and not self._keeps_idle:
            self._retire_idle()
        elif placed:
            self._placed = now
        elif now - self._placed >= WAIT_LINE_SECONDS:
            self._placed = now
            what = f"{self.ask.num_gpus:g} GPU" if self.ask.num_gpus else f"{self.ask.num_cpus:g} CPU"
            self._say(f"waiting for a place: a worker needs {what}, and the cluster has none free yet")

    def _demand(self) -> int:
        """Number of workers that could have work."""
        waiting = -(-self._backlog.most_left // self._job.maker.rows_per_call)
        return waiting + sum(slot.is_busy for slot in self._slots) + len(self._suspects) + len(self._readers)

    def _start_worker(self) -> None:
        import ray

        options = {"num_cpus": self.ask.num_cpus, "num_gpus": self.ask.num_gpus}
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(Worker).remote(self._plan, self._job)
        self._slots.append(_Slot(actor, actor.where.remote()))

    def _is_leaving(self, slot: _Slot) -> bool:
        """Whether the worker's node was told to go: it ends what it holds, and gets no more."""
        return slot.place is not None and slot.place[0] in self._cluster.leaving

    def _retire_idle(self, matches: Callable[[_Slot], bool] = lambda slot: True) -> None:
        """Ends idle workers, so that an autoscaler may remove their node."""
        import ray

        for slot in [one for one in self._slots if not (one.is_busy or one.is_guard) and matches(one)]:
            ray.kill(slot.actor)
            self._slots.remove(slot)

    def _end_start(self, slot: _Slot) -> None:
        import ray

        try:
            answer = ray.get(slot.starting)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, DeviceFault):
                raise told(error) from None
            self._lose(slot, str(error.cause), _NO_RECIPE)
            return
        except ray.exceptions.RayActorError as error:
            is_alive = self._is_node_alive(slot)
            self._start_deaths += is_alive
            if self._start_deaths >= MAX_START_DEATHS:
                raise RunFailed(
                    f"{MAX_START_DEATHS} workers in a row died while they started ({first_line(error)}); look for what ends "
                    "them, memory that runs out most often, or use a smaller model or fewer workers"
                ) from None
            self._lose(slot, first_line(error), _NO_RECIPE if is_alive else None)
            return
        if slot.place is not None:
            slot.starting, slot.is_ready, self._sizes, self._start_deaths = None, True, answer, 0
            return
        node, gpus = answer
        slot.place = node, tuple(gpus)
        slot.is_guard = slot.place in self._devices.sick
        slot.starting = None if slot.is_guard else slot.actor.load.remote(self._price(self.ask, node))

    def _hand_out(self) -> None:
        for slot in self._slots:
            while slot.is_ready and len(slot.calls) < CALLS_PER_WORKER and self._give(slot):
                pass
            if slot.is_ready and not slot.calls and slot.unwritten:
                slot.calls.append(_Call(slot.actor.flush.remote(), None))

    def _give(self, slot: _Slot) -> bool:
        """Gives a worker its next lease; a suspect gets a worker of its own, and one whose node is leaving gets none."""
        if self._is_leaving(slot) or any(call.lease and call.lease.care for call in slot.calls):
            return False
        # prefer a lease that is no suspect, so that a failing device is not mistaken for a recipe that kills
        if not slot.calls and (slot.is_proved or not (self._readers.has_block or self._backlog)):
            suspect = self._suspects.next(lambda lease: not (lease.reads and self._reads_elsewhere))
            if suspect is not None:
                self._call(slot, suspect)
                return True
        if self._readers.has_block:
            reading = self._readers.take()
            self._call(slot, reading.lease, reading.block, self._price(CPU_ASK, reading.node).usd_per_device_second)
            return True
        if self._reads_elsewhere and self._backlog.next_reads:
            return False
        lease = self._backlog.take(self._rows_of_next)
        if lease is not None:
            self._call(slot, lease)
        return lease is not None

    def _call(self, slot: _Slot, lease: Lease, block: Any = None, usd_per_second: float | None = None) -> None:
        token, notes = self._suspects.begin(lease)
        made = slot.actor.make.remote(lease, token, notes, block, usd_per_second)
        slot.calls.append(_Call(made, lease, token))

    @property
    def num_ready(self) -> int:
        """Workers that have loaded their models."""
        return sum(slot.is_ready for slot in self._slots)

    @property
    def _reads_elsewhere(self) -> bool:
        """Whether tasks on processors read and decode: yes if workers hold GPUs and the cluster has a free CPU."""
        return self.ask.num_gpus > 0 and self._cluster.spare_cpus(self.ask) > 0

    def _start_reading(self) -> None:
        """Keeps all spare processors reading, and some blocks ready for the workers."""
        most = max(BLOCKS_AHEAD * self.num_ready, self._cluster.spare_cpus(self.ask))
        while self._reads_elsewhere and self._sizes is not None and len(self._readers) < most:
            lease = self._suspects.next(lambda lease: lease.reads)
            if lease is None and self._backlog.next_reads:
                lease = self._backlog.take(self._rows_of_next)
            if lease is None:
                return
            self._readers.start(lease, self._sizes)

    def _rows_of_next(self, reads: bool) -> int:
        return self._size.next(reads, self._backlog.most_left, self.num_ready)

    def _put_back(self, *leases: Lease | None) -> None:
        for lease in leases:
            if lease is not None and lease.care:
                self._suspects.add(lease)
            elif lease is not None:
                self._backlog.put_back(lease)

    def _end_call(self, slot: _Slot) -> Report:
        import ray

        call = slot.calls.popleft()
        self._suspects.end(call.token)
        try:
            report: Report = ray.get(call.ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DeviceFault):
                self._blame(slot, call, str(error.cause))
            elif isinstance(error.cause, ray.exceptions.ObjectLostError):  # the read images went with their node
                self._put_back(call.lease)
            else:
                raise told(error) from None
            return Report()
        except ray.exceptions.ObjectLostError:
            self._put_back(call.lease)
            return Report()
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            # a process that is unreachable, or that was lost with its node, is no evidence against its lease
            if isinstance(error, ray.exceptions.ActorUnavailableError) or not self._is_node_alive(slot):
                self._say(f"a worker is gone with its node ({first_line(error)}); its recipes are made elsewhere")
                self._lose(slot, first_line(error), None)
                self._put_back(call.lease)
            else:
                self._blame(slot, call, first_line(error))
            return Report()
        self._take(slot, call, report)
        return report

    def _take(self, slot: _Slot, call: _Call, report: Report) -> None:
        if call.lease is None:
            slot.unwritten.clear()
            return
        slot.is_proved = True
        self._devices.worked(slot.place)
        self._size.learn(call.lease.reads, report.rows, report.seconds)
        made = call.lease.indices
        if report.rest is not None:
            made = made[: len(made) - len(report.rest)]
            self._put_back(replace(call.lease, indices=report.rest))
        slot.unwritten.append(replace(call.lease, indices=made, care=0, deaths=0))
        slot.strike_out(report)

    def _blame(self, slot: _Slot, call: _Call, reason: str) -> None:
        """Handles a death that the device or the recipes of the call have caused."""
        self._lose(slot, reason, call.lease.indices if call.lease is not None else _NO_RECIPE)
        if call.lease is not None:
            self._say(f"a worker died ({reason}); its recipes are tried again with care")
            self._carry_out(self._suspects.judge(call.lease, call.token), reason)

    def _carry_out(self, verdict: Verdict, reason: str) -> None:
        self._put_back(*verdict.again)
        self.killers += [(index, f"its process died each time it was made ({reason})") for index in verdict.killers]

    def _lose(self, slot: _Slot, reason: str, culprit: np.ndarray | None) -> None:
        """Ends a worker that died or must not go on, and puts back its other calls.

        Args:
            slot: the worker.
            reason: the reason to print.
            culprit: indices that were being made when its process failed; None where its node or the network failed.
        """
        import ray

        ray.kill(slot.actor)  # an unreachable worker must not go on beside its successor
        self._slots.remove(slot)
        for call in slot.calls:
            self._suspects.end(call.token)
            self._put_back(call.lease)
        self._put_back(*slot.unwritten)
        if culprit is not None:
            self._devices.failed(slot.place, culprit, reason)

    def _is_node_alive(self, slot: _Slot) -> bool:
        import ray

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return slot.place is None or slot.place[0] in alive
