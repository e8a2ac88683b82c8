"""`Refusals`: requests that a full queue would refuse are refused before they cost its process any time.

`Retry-After` grows with the number of refused clients: they return slightly faster than requests are answered, so the queue stays full
and refusals stay few.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.serving.errors import ApiError

REFUSE_FOR_SECONDS = 0.2
"""Time after which a process is asked again whether its queue is full, if no request has ended before."""
RETURNS_PER_SECOND = 10.0
"""Least rate at which refused clients return, requests per second."""
RETURNS_PER_ANSWER = 1.25
"""Refused clients that return per answered request, where that rate is higher."""
WINDOW_SECONDS = 5.0
"""Window in which answers are counted."""
LATEST_SECONDS = 30.0
"""Longest `Retry-After`, seconds."""


class Refusals:
    """The last refusal by the processes of one generator, from the view of one ingress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._refusal: ApiError | None = None
        self._until = 0.0
        self._returns: deque[float] = deque()
        """Times at which refused clients will return, in ascending order."""
        self._answers: deque[float] = deque()
        """Times of the answers in the window, in ascending order."""

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
        """The refusal with a `Retry-After` behind the clients that were refused before."""
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
