"""A server's parts in one process, without Ray: for tests, and to try an application in a debugger."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from engine.models.resolve import generator_spec
from engine.serving.app import build_app
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.keys import KeyRing
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.replica import GeneratorReplica
from engine.serving.service import Service
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


@dataclass(frozen=True)
class LocalServer:
    """All parts of a server."""

    app: ASGIApp
    service: Service
    writer: TableWriter
    replicas: Mapping[str, GeneratorReplica]
    """Name of the generator → its one process."""


@contextmanager
def local_server(config: ServeConfig, keys: Mapping[str, Caller]) -> Iterator[LocalServer]:
    """The parts of a server for a block. `keys`: hash of the key → caller, besides the keys of the workspace."""
    config.check()
    with ExitStack() as stack:
        writer = TableWriter(config)
        stack.callback(writer.close)
        client = LocalWriter(writer)
        replicas = {}
        for name in config.generators:
            replica = GeneratorReplica(config, name, client.put)
            stack.callback(replica.close)
            replicas[generator_spec(name).name] = replica
        generators = {name: LocalGenerators(replica) for name, replica in replicas.items()}
        service = Service(config, generators, client, secrets.token_bytes(32))
        yield LocalServer(build_app(service, KeyRing(service.workspace, keys)), service, writer, replicas)
