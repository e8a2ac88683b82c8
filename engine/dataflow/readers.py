"""Reading for workers that hold GPUs: tasks on any processor of the cluster read, decode and resize in advance."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.dataflow.attempts import Suspects, Verdict, first_line, told
from engine.dataflow.leases import Lease
from engine.dataflow.worker import read_elsewhere
from engine.models.preprocessing import Preprocessing

BLOCKS_AHEAD = 2
"""Blocks per worker that are ready or being read."""


@dataclass(eq=False)
class Reading:
    """A lease that is being read or has been read."""

    lease: Lease
    token: str
    count: Any
    """Reference to the number of images read and the node, which the driver fetches."""
    block: Any
    """Reference to the images, which the driver does not fetch."""
    node: str = ""
    """Id of the node that has read them."""


class Readers:
    """Tasks that read, and the blocks that they produced."""

    def __init__(self, plan: Any, maker: Any, suspects: Suspects, put_back: Callable[..., None]):
        """`plan` and `maker` are references; `put_back` takes leases to make again."""
        self._plan, self._maker, self._suspects, self._put_back = plan, maker, suspects, put_back
        self._reading: list[Reading] = []
        self._read: deque[Reading] = deque()

    def __len__(self) -> int:
        return len(self._reading) + len(self._read)

    @property
    def refs(self) -> list[Any]:
        """References to wait for."""
        return [reading.count for reading in self._reading]

    @property
    def has_block(self) -> bool:
        """Whether a block is ready for a worker."""
        return bool(self._read)

    def start(self, lease: Lease, sizes: Sequence[Preprocessing | None]) -> None:
        """Reads a lease."""
        import ray

        token, notes = self._suspects.begin(lease)
        task = ray.remote(num_cpus=1, max_retries=0, num_returns=2)(read_elsewhere)
        count, block = task.remote(self._plan, self._maker, lease, sizes, token, notes)
        self._reading.append(Reading(lease, token, count, block))

    def take(self) -> Reading:
        """The next block for a worker."""
        return self._read.popleft()

    def end(self, ref: Any) -> tuple[Verdict, str] | None:
        """Handles the end of a task; if its process died, returns the verdict on its lease and the reason."""
        import ray

        reading = next(one for one in self._reading if one.count == ref)
        self._reading.remove(reading)
        self._suspects.end(reading.token)
        try:
            made, reading.node = ray.get(reading.count)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            return self._suspects.judge(reading.lease, reading.token), first_line(error)
        except (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError):
            self._put_back(reading.lease)
            return None
        except ray.exceptions.RayTaskError as error:
            raise told(error) from None
        if made < len(reading.lease):
            self._put_back(replace(reading.lease, indices=reading.lease.indices[made:]))
        # a device can embed what a processor could read, so the lease is no suspect any more
        reading.lease = replace(reading.lease, indices=reading.lease.indices[:made], care=0, deaths=0)
        self._read.append(reading)
        return None

    def close(self) -> None:
        """Ends the tasks."""
        import ray

        for reading in self._reading:
            ray.cancel(reading.count, force=True)
