"""A server's parts in one process, without Ray: for tests, and to try an application in a debugger."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from engine.serving.callers import Caller
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.replica import GeneratorReplica
from engine.serving.writer import TableWriter


class LocalWriter:
    """The `TableWriter` of this process."""

    def __init__(self, writer: TableWriter):
        self._writer = writer

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """See `TableWriter.admit`."""
        return self._writer.admit(caller, images)

    async def put(
        self,
        tables: Mapping[str, bytes],
        work: Sequence[Mapping[str, Any]] = (),
        counts: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """See `TableWriter.put`."""
        return await asyncio.wrap_future(self._writer.put(tables, work, counts))

    async def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """See `TableWriter.metrics`."""
        return self._writer.metrics()


class LocalGenerators:
    """The `GeneratorReplica` of this process."""

    def __init__(self, replica: GeneratorReplica):
        self._replica = replica

    async def generate(self, order: Order) -> list[Served]:
        """See `GeneratorReplica.generate`."""
        return await self._replica.generate(order)

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        """See `GeneratorReplica.stream`."""
        async for event in self._replica.stream(order):
            yield event

    async def search(self, search: Search) -> list[Hit]:
        """See `GeneratorReplica.search`."""
        return await self._replica.search(search)

    async def add(self, new: NewObject) -> list[str]:
        """See `GeneratorReplica.add`."""
        return await self._replica.add(new)
