"""`Refusals`: requests that a full queue would refuse are refused before they cost its process any time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.serving.errors import ApiError

REFUSE_FOR_SECONDS = 0.2
"""Time after which a process is asked again whether its queue is full, if no request has ended before."""


class Refusals:
    """The last refusal by the processes of one generator, from the view of one ingress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._refusal: ApiError | None = None
        self._until = 0.0

    @contextmanager
    def around(self) -> Iterator[None]:
        """For a block that sends a request. Raises ApiError (503) at once while the queue is known to be full.

        It counts as full for a moment after a refusal; a request that ends in any other way has left a place.
        """
        if self._refusal is not None and self._clock() < self._until:
            raise ApiError(*self._refusal.args[:2], code="queue_full", retry_after=self._refusal.retry_after)
        try:
            yield
        except ApiError as error:
            is_full = error.code == "queue_full"
            self._refusal, self._until = (error if is_full else None), self._clock() + REFUSE_FOR_SECONDS
            raise
        except BaseException:
            self._refusal = None
            raise
        else:
            self._refusal = None
