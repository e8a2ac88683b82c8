"""Politeness: a host gets few requests at once, and a pause between them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

MAX_HOSTS = 100_000
"""Hosts that are remembered; of more, those that were idle longest are forgotten."""


class Hosts:
    """The turns of all hosts."""

    def __init__(
        self,
        at_once: int,
        seconds_between: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._at_once, self._seconds_between = at_once, seconds_between
        self._clock, self._sleep = clock, sleep
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Waits for a turn at the host, which ends with the block."""
        found = self._hosts.setdefault(host, _Host(asyncio.Semaphore(self._at_once)))
        self._hosts.move_to_end(host)
        found.users += 1
        try:
            async with found.slots:
                begin = max(self._clock(), found.next_begin)
                found.next_begin = begin + self._seconds_between
                if (pause := begin - self._clock()) > 0:
                    await self._sleep(pause)
                yield
        finally:
            found.users -= 1
            self._forget()

    def wait(self, host: str, seconds: float) -> None:
        """Lets nobody begin at the host for this time, as it asked by Retry-After."""
        if (found := self._hosts.get(host)) is not None:
            found.next_begin = max(found.next_begin, self._clock() + seconds)

    def _forget(self) -> None:
        while len(self._hosts) > MAX_HOSTS:
            name, oldest = next(iter(self._hosts.items()))
            if oldest.users or oldest.next_begin > self._clock():
                return
            del self._hosts[name]


class _Host:
    def __init__(self, slots: asyncio.Semaphore):
        self.slots = slots
        self.next_begin = float("-inf")
        self.users = 0
