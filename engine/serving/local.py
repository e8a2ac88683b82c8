"""A server's parts in one process, without Ray: for tests, and to try an application in a debugger."""

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from engine.models.resolve import generator_spec
from engine.serving.app import build_app
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.keys import KeyRing
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
        service = Service(config, replicas, client, secrets.token_bytes(32))
        yield LocalServer(build_app(service, KeyRing(service.workspace, keys)), service, writer, replicas)
