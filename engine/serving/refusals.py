"""`Refusals`: requests that a full queue would refuse are refused before they cost its process any time.

The more have been refused, the later each is told to come back: as many per second as are answered, and a few more, so that a crowd
keeps the queue full and costs no more refusals than that.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.serving.errors import ApiError

REFUSE_FOR_SECONDS = 0.2
"""Time after which a process is asked again whether its queue is full, if no request has ended before."""
RETURNS_PER_SECOND = 10.0
"""Requests that are told to come back within the same second, if few are answered."""
RETURNS_PER_ANSWER = 1.25
"""Requests that are told to come back per request that is answered, if many are."""
WINDOW_SECONDS = 5.0
"""Time over which answers are counted."""
LATEST_SECONDS = 30.0
"""No request is told to come back later than that."""


class Refusals:
    """The last refusal by the processes of one generator, from the view of one ingress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._refusal: ApiError | None = None
        self._until = 0.0
        self._returns: deque[float] = deque()
        """When the refused that are still to come were told to come back, the earliest first."""
        self._answers: deque[float] = deque()
        """When requests were answered, the earliest first."""

    @contextmanager
    def around(self) -> Iterator[None]:
        """For a block that sends a request. Raises ApiError (503) at once while the queue is known to be full.

        It counts as full for a moment after a refusal; a request that ends in any other way has left a place.
        """
        if self._refusal is not None and self._clock() < self._until:
            raise self._later(self._refusal)
        try:
            yield
        except ApiError as error:
            is_full = error.code == "queue_full"
            self._refusal, self._until = (error if is_full else None), self._clock() + REFUSE_FOR_SECONDS
            if is_full:
                raise self._later(error) from error
            raise
        except BaseException:
            self._refusal = None
            raise
        else:
            self._refusal = None
            self._answers.append(self._clock())
            _drop(self._answers, self._clock() - WINDOW_SECONDS)

    def _later(self, refusal: ApiError) -> ApiError:
        """The refusal, with the time at which the crowd that was refused before will have come back."""
        now = self._clock()
        _drop(self._returns, now)
        _drop(self._answers, now - WINDOW_SECONDS)
        per_second = max(RETURNS_PER_SECOND, RETURNS_PER_ANSWER * len(self._answers) / WINDOW_SECONDS)
        seconds = min(LATEST_SECONDS, max(refusal.retry_after or 1.0, len(self._returns) / per_second))
        back = max(now + seconds, self._returns[-1] if self._returns else 0.0)
        self._returns.append(back)
        return ApiError(*refusal.args[:2], code="queue_full", retry_after=back - now)


def _drop(times: deque[float], until: float) -> None:
    while times and times[0] <= until:
        times.popleft()
