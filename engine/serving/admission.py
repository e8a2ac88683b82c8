"""Admission of requests: images per minute and US dollars of each key."""

import math
import time
from collections.abc import Callable, Mapping

from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.store import Workspace

ROUNDING = 1e-9
"""Images; a bucket that lacks less than this is full enough."""


def spent_from(workspace: Workspace) -> dict[str, float]:
    """Public id of a key → US dollars of all its images in the table `requests`."""
    table = workspace.dataset("requests").to_table(columns=["key_id", "usd"])
    sums = table.group_by("key_id").aggregate([("usd", "sum")])
    return dict(zip(sums.column("key_id").to_pylist(), sums.column("usd_sum").to_pylist(), strict=True))


class Admission:
    """Decides whether a key may have more images now. One per server, used from one thread.

    A key's rate is a token bucket: it holds `rate_per_minute` images at most, and fills at that many per minute.
    """

    def __init__(self, spent: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        """`spent`: US dollars that each key has spent, by its public id (`spent_from`). `clock`: seconds, of any origin."""
        self._spent = dict(spent)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key id → (images left, when that was)

    def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """Takes `images` from the key's rate; returns the headers of the answer (see `headers`).

        Images that are being made are not yet spent, so a key may exceed its budget by the requests that it has in flight.
        Raises ApiError, and takes nothing: 429 `insufficient_quota` if the dollars are spent, 429 `rate_limit_exceeded`
        if the rate is used up, and 400 if `images` are more than the key may ever have at once.
        """
        if caller.budget_usd is not None and self._spent.get(caller.key_id, 0.0) >= caller.budget_usd:
            message = f"the budget of this key ({caller.budget_usd:,.2f} dollars) is spent; use another key"
            raise ApiError(429, message, code="insufficient_quota", more_headers=self.headers(caller))
        if caller.rate_per_minute is None:
            return {}
        rate = caller.rate_per_minute
        if images > rate:
            message = f"n is {images}, and this key may make {rate} images per minute; ask for fewer"
            raise ApiError(400, message, code="rate_limit_exceeded", param="n")
        left = self._left(caller.key_id, rate)
        if left + ROUNDING < images:
            seconds = math.ceil((images - left) * 60 / rate)
            message = f"this key may make {rate} images per minute; try again in {seconds} s"
            headers = self.headers(caller)
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=seconds, more_headers=headers)
        self._buckets[caller.key_id] = max(0.0, left - images), self._clock()
        return self.headers(caller)

    def headers(self, caller: Caller) -> dict[str, str]:
        """`x-ratelimit-limit-requests`, `-remaining-requests` and `-reset-requests` (time until the bucket is full).

        The names and the notation of durations (`6m0s`) are those of OpenAI's API, the unit is images. Empty for a key
        without a rate.
        """
        if caller.rate_per_minute is None:
            return {}
        rate = caller.rate_per_minute
        left = self._left(caller.key_id, rate)
        return {
            "x-ratelimit-limit-requests": str(rate),
            "x-ratelimit-remaining-requests": str(math.floor(left + ROUNDING)),
            "x-ratelimit-reset-requests": duration((rate - left) * 60 / rate),
        }

    def charge(self, key_id: str, usd: float) -> None:
        """Counts US dollars that an image of this key has cost."""
        self._spent[key_id] = self._spent.get(key_id, 0.0) + usd

    def _left(self, key_id: str, rate: int) -> float:
        now = self._clock()
        left, at = self._buckets.get(key_id, (float(rate), now))
        return min(float(rate), left + (now - at) * rate / 60)


def duration(seconds: float) -> str:
    """A time in the notation of OpenAI's headers, rounded up: `120ms`, `12s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000 - ROUNDING)}ms" if seconds > 0 else "0s"
    minutes, rest = divmod(math.ceil(seconds - ROUNDING), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"
