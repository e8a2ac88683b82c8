"""The server on Ray Serve: one deployment per generator, and one that answers HTTP; an actor beside them writes the table."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from engine.dataflow.resources import choose_ask, current_cluster
from engine.models.resolve import generator_spec
from engine.recipe import embedding_column
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.keys import KeyRing
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.refusals import Refusals
from engine.serving.retries import RESTARTED, TRIES, as_api_error, tried
from engine.serving.service import Service
from engine.serving.writer_actor import WriterClient, start_writer
from engine.store import Workspace

NO_LIMIT = 100_000
"""Requests that Serve passes on to a process: the queue of the generator has the limit."""
NAME, INGRESS = "imagefoundry", "Ingress"
"""Names of the Serve application, and of the deployment that answers HTTP."""


def deployment_name(generator: str) -> str:
    """Name of a generator's deployment."""
    return "Generator-" + embedding_column(generator).removeprefix("embedding_")


class GeneratorDeployment:
    """A `GeneratorReplica` in a process of its own."""

    def __init__(self, config: ServeConfig, generator: str, num_gpus: float, device: str):
        import torch

        from engine.serving.replica import GeneratorReplica

        if device == "cpu":
            torch.set_num_threads(1)  # one process per core, as in runs
        put = WriterClient(config.workspace).put
        self._replica = GeneratorReplica(config, generator, put, num_gpus=num_gpus, device=device)

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


class RayGenerators:
    """The processes of one generator, from the ingress; what dies with a process is sent to another one."""

    def __init__(self, handle: DeploymentHandle):
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._refusals = Refusals()

    async def generate(self, order: Order) -> list[Served]:
        """See `GeneratorReplica.generate`."""
        with self._refusals.around():
            return await tried(lambda: self._handle.generate.remote(order))

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        """See `GeneratorReplica.stream`. Events that came before a process died are not repeated."""
        with self._refusals.around():
            async for event in self._tried(order):
                yield event

    async def _tried(self, order: Order) -> AsyncIterator[Event]:
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
                api_error = as_api_error(error)
                if not left or api_error.code not in RESTARTED:
                    raise api_error from error

    async def search(self, search: Search) -> list[Hit]:
        """See `GeneratorReplica.search`."""
        return await tried(lambda: self._handle.search.remote(search))

    async def add(self, new: NewObject) -> list[str]:
        """See `GeneratorReplica.add`."""
        return await tried(lambda: self._handle.add.remote(new))


def build_ingress(config: ServeConfig, secret: bytes, keys: Mapping[str, Caller]) -> Any:
    """The ASGI application in a process that answers HTTP."""
    from engine.serving.app import build_app

    app_name = serve.get_replica_context().app_name

    def handle(name: str) -> DeploymentHandle:
        return serve.get_deployment_handle(name, app_name=app_name)

    names = [generator_spec(generator).name for generator in config.generators]
    generators = {name: RayGenerators(handle(deployment_name(name))) for name in names}
    service = Service(config, generators, WriterClient(config.workspace), secret)
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
    start_writer(config, NAME)
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
        parts.append(deployment.bind(config, generator, ask.num_gpus, ask.device))

    def build() -> Any:  # Ray takes a function without arguments for a builder, and a partial for an application
        return build_ingress(config, secret, dict(keys))

    ingress = serve.deployment(serve.ingress(build)())
    return ingress.options(
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=NO_LIMIT,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=config.deadline_seconds,
    ).bind(*parts)
