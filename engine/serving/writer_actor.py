"""The `TableWriter` as an actor of Ray that all processes of a server share.

It is no deployment of Serve: Serve stops the deployments of an application all at once, and what is in flight then could not be
written any more.
"""

import asyncio
import itertools
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import ray

from engine.dataflow.resources import current_cluster
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.retries import tried
from engine.serving.writer import TableWriter
from engine.store import Workspace

NAMESPACE = "imagefoundry"
LOOK_EVERY_SECONDS = 10.0
"""Seconds between two looks at whether the application still exists."""


class WriterActor:
    """Writes until the application that it belongs to is gone, then gives the workspace's lock back."""

    def __init__(self, config: ServeConfig, application: str):
        self._application = application
        self._writer = TableWriter(config, lambda: current_cluster(may_grow=True).total)
        self._looking: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Returns when the table can be written."""
        self._watch()

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """See `TableWriter.admit`."""
        return self._writer.admit(caller, images)

    async def put(
        self,
        tables: Mapping[str, bytes],
        work: list[dict[str, Any]],
        counts: dict[str, Any] | None,
        is_repeated: bool,
    ) -> list[str]:
        """See `TableWriter.put`."""
        self._watch()
        return await asyncio.wrap_future(self._writer.put(tables, work, counts, is_repeated))

    async def metrics(self) -> dict[str, Any]:
        """See `TableWriter.metrics`."""
        return self._writer.metrics()

    async def close(self) -> None:
        """Commits what waits, and gives the lock back."""
        await asyncio.to_thread(self._writer.close)

    def _watch(self) -> None:
        """Looks after the application from now on; a restarted actor begins with its first call."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        from ray import serve

        seen, missing = False, 0
        while missing < 2:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            try:
                status = await asyncio.to_thread(serve.status)
                is_there = self._application in status.applications
            except Exception:  # Serve is not there yet, or no longer
                is_there = False
            seen = seen or is_there
            missing = 0 if is_there or not seen else missing + 1
        await self.close()
        ray.actor.exit_actor()


def actor_name(workspace: str) -> str:
    """Name of the actor that writes a workspace."""
    return "writer-" + blake2b(workspace.encode(), digest_size=8).hexdigest()


def start_writer(config: ServeConfig, application: str) -> None:
    """Starts the actor, unless it is there: an application that is deployed again keeps it.

    Raises ValueError if another run writes to the workspace.
    """
    name = actor_name(config.workspace)
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        with Workspace.open(config.workspace).lock("serve"):  # a sentence here, where a person reads it
            pass
    actor = ray.remote(WriterActor).options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime="detached",
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=10_000,
    )
    ray.get(actor.remote(config, application).ready.remote())


def stop_writer(workspace: str) -> None:
    """Ends the actor after what waits is written."""
    try:
        actor = ray.get_actor(actor_name(workspace), NAMESPACE)
    except ValueError:
        return
    ray.get(actor.close.remote())
    ray.kill(actor)


class WriterClient:
    """The writer, from another process; calls are repeated while it restarts."""

    def __init__(self, workspace: str):
        self._actor = ray.get_actor(actor_name(workspace), NAMESPACE)

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """See `TableWriter.admit`."""
        return await tried(lambda: self._actor.admit.remote(caller, images))

    async def put(
        self,
        tables: Mapping[str, bytes],
        work: list[dict[str, Any]] | None = None,
        counts: dict[str, Any] | None = None,
    ) -> list[str]:
        """See `TableWriter.put`. Rows are added once, however often this is repeated."""
        tries = itertools.count()
        return await tried(lambda: self._actor.put.remote(dict(tables), work or [], counts, next(tries) > 0))

    async def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """See `TableWriter.metrics`."""
        return await tried(lambda: self._actor.metrics.remote())
