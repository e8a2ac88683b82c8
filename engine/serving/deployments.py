"""The server on Ray Serve: one deployment per generator, one that writes the table, one that answers HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from engine.dataflow.resources import choose_ask, current_cluster
from engine.models.resolve import generator_spec
from engine.recipe import embedding_column
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.keys import KeyRing
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.service import Service
from engine.store import Workspace

TRIES = 4
"""Processes that a request is sent to, one after the other, when they die or stop."""
NO_LIMIT = 100_000
"""Requests that Serve passes on to a process: the queue of the generator has the limit."""
WRITER, INGRESS = "Writer", "Ingress"
RESTARTED = ("process_failed", "stopping")
"""Codes after which another process can answer."""

Result = TypeVar("Result")


def deployment_name(generator: str) -> str:
    """Name of a generator's deployment."""
    return "Generator-" + embedding_column(generator).removeprefix("embedding_")


class WriterDeployment:
    """The `TableWriter` in a process of its own."""

    def __init__(self, config: ServeConfig):
        from engine.serving.writer import TableWriter

        self._writer = TableWriter(config, lambda: current_cluster(may_grow=True).total)

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """See `TableWriter.admit`."""
        return self._writer.admit(caller, images)

    async def put(
        self, tables: Mapping[str, bytes], work: list[dict[str, Any]], counts: dict[str, Any] | None
    ) -> list[str]:
        """See `TableWriter.put`."""
        return await asyncio.wrap_future(self._writer.put(tables, work, counts))

    async def metrics(self) -> dict[str, Any]:
        """See `TableWriter.metrics`."""
        return self._writer.metrics()

    def check_health(self) -> None:
        """Raises if the process can write no more, so that Serve replaces it."""
        if self._writer.problem:
            raise self._writer.problem

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()


class GeneratorDeployment:
    """A `GeneratorReplica` in a process of its own."""

    def __init__(self, config: ServeConfig, generator: str, num_gpus: float, device: str, writer: DeploymentHandle):
        import torch

        from engine.serving.replica import GeneratorReplica

        if device == "cpu":
            torch.set_num_threads(1)  # one process per core, as in runs
        client = RayWriter(writer)
        self._replica = GeneratorReplica(config, generator, client.put, num_gpus=num_gpus, device=device)

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

    def check_health(self) -> None:
        """Raises if the device has failed, so that Serve replaces the process."""
        self._replica.check()


class RayWriter:
    """The writer, from another process."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """See `TableWriter.admit`."""
        return await _tried(lambda: self._handle.admit.remote(caller, images))

    async def put(
        self,
        tables: Mapping[str, bytes],
        work: list[dict[str, Any]] | None = None,
        counts: dict[str, Any] | None = None,
    ) -> list[str]:
        """See `TableWriter.put`. Rows of images are added once, however often this is repeated."""
        return await _tried(lambda: self._handle.put.remote(dict(tables), work or [], counts))

    async def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """See `TableWriter.metrics`."""
        return await _tried(lambda: self._handle.metrics.remote())


class RayGenerators:
    """The processes of one generator, from the ingress; what dies with a process is sent to another one."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle
        self._streams = handle.options(stream=True)

    async def generate(self, order: Order) -> list[Served]:
        """See `GeneratorReplica.generate`."""
        return await _tried(lambda: self._handle.generate.remote(order))

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        """See `GeneratorReplica.stream`. Events that came before a process died are not repeated."""
        shown: set[tuple[str, int, int]] = set()
        for left in reversed(range(TRIES)):
            try:
                async for event in self._streams.stream.remote(order):
                    mark = (event.kind, event.number, event.preview_index)
                    if event.kind == "queued" or mark not in shown:
                        shown.add(mark)
                        yield event
                return
            except Exception as error:
                api_error = _as_api_error(error)
                if not left or api_error.code not in RESTARTED:
                    raise api_error from error

    async def search(self, search: Search) -> list[Hit]:
        """See `GeneratorReplica.search`."""
        return await _tried(lambda: self._handle.search.remote(search))

    async def add(self, new: NewObject) -> list[str]:
        """See `GeneratorReplica.add`."""
        return await _tried(lambda: self._handle.add.remote(new))


async def _tried(call: Callable[[], Awaitable[Result]]) -> Result:
    """The result of a call, which is repeated while processes die. Raises ApiError."""
    for left in reversed(range(TRIES)):
        try:
            return await call()
        except Exception as error:
            api_error = _as_api_error(error)
            if not left or api_error.code not in RESTARTED:
                raise api_error from error
    raise AssertionError("the last try returns or raises")


def _as_api_error(error: Exception) -> ApiError:
    """The error of another process as one of the API."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RayActorError):
        return ApiError(
            503, "the process that worked on the request died; try again", code="process_failed", retry_after=2
        )
    if isinstance(error, BackPressureError | DeploymentUnavailableError):
        return ApiError(503, "the server is full or starting; try again", code="unavailable", retry_after=2)
    raise error


def build_ingress(config: ServeConfig, secret: bytes, keys: Mapping[str, Caller]) -> Any:
    """The ASGI application in a process that answers HTTP."""
    from engine.serving.app import build_app

    app_name = serve.get_replica_context().app_name

    def handle(name: str) -> DeploymentHandle:
        return serve.get_deployment_handle(name, app_name=app_name)

    names = [generator_spec(generator).name for generator in config.generators]
    generators = {name: RayGenerators(handle(deployment_name(name))) for name in names}
    service = Service(config, generators, RayWriter(handle(WRITER)), secret)
    return build_app(service, KeyRing(service.workspace, keys))


def build_application(
    config: ServeConfig, secret: bytes, keys: Mapping[str, Caller], may_grow: bool = True
) -> serve.Application:
    """The Serve application; Ray is connected.

    Args:
        config: the settings.
        secret: signs sessions and addresses, 32 bytes.
        keys: hash of the key → caller, besides the keys of the workspace.
        may_grow: whether nodes may join the cluster.

    Raises:
        ValueError: the configuration is invalid, or the cluster can never hold a generator.
    """
    config.check()
    config = replace(config, workspace=Workspace.open(config.workspace).uri)
    writer = (
        serve.deployment(WriterDeployment)
        .options(
            name=WRITER,
            num_replicas=1,
            max_ongoing_requests=NO_LIMIT,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=60,
        )
        .bind(config)
    )
    cluster = current_cluster(may_grow)
    parts = []
    for generator in config.generators:
        spec = generator_spec(generator)
        ask = choose_ask(cluster, spec.num_gpus, spec.needs_gpu, config.device)
        options: dict[str, Any] = {
            "name": deployment_name(spec.name),
            "max_ongoing_requests": NO_LIMIT,
            "ray_actor_options": {"num_cpus": ask.num_cpus, "num_gpus": ask.num_gpus},
            "graceful_shutdown_timeout_s": config.deadline_seconds,
        }
        if config.max_replicas in (None, config.replicas):
            options["num_replicas"] = config.replicas
        else:
            options["autoscaling_config"] = {
                "min_replicas": config.replicas,
                "max_replicas": config.max_replicas,
                "target_ongoing_requests": 2 * (config.max_batch or spec.batch_size),
            }
        deployment = serve.deployment(GeneratorDeployment).options(**options)
        parts.append(deployment.bind(config, generator, ask.num_gpus, ask.device, writer))

    def build() -> Any:  # Ray takes a function without arguments for a builder, and a partial for an application
        return build_ingress(config, secret, dict(keys))

    ingress = serve.deployment(serve.ingress(build)())
    return ingress.options(
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=NO_LIMIT,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.deadline_seconds,
    ).bind(writer, *parts)
