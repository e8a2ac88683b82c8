"""`Service`: everything that the API and the pages can ask for. It keeps nothing that another replica would lack."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from engine.models.resolve import generator_spec
from engine.recipe import IMAGE_SCHEMA
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.planning import plan_order
from engine.serving.requests import ImageRequest
from engine.store import Workspace
from engine.store.rows import quote

log = logging.getLogger("imagefoundry.serving")
PLAIN = tuple(name for name in IMAGE_SCHEMA.names if name != "image")
"""Columns of an image without its bytes."""


class Generators(Protocol):
    """The processes of one generator, here or elsewhere in the cluster."""

    async def generate(self, order: Order) -> list[Served]:
        """All images of an order, in its sequence. Raises ApiError."""
        ...

    def stream(self, order: Order) -> AsyncIterator[Event]:
        """The events of an order as they happen, from several images at once. Raises ApiError for the whole order."""
        ...

    async def search(self, search: Search) -> list[Hit]:
        """The nearest images. Raises ApiError."""
        ...

    async def add(self, new: NewObject) -> list[str]:
        """Embeds and commits real images; returns their ids. Raises ApiError."""
        ...


class Writer(Protocol):
    """The one process that writes the table."""

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """Headers about the caller's rate. Raises ApiError (429) if its rate or budget is used up."""
        ...

    async def put(self, tables: Mapping[str, bytes]) -> list[str]:
        """Commits rows: table name → Arrow IPC stream. They are durable when this returns.

        Returns the ids of images that existed and were not added again.
        """
        ...

    async def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """Generator → the newest counts of each of its processes."""
        ...


class Service:
    """The server's abilities, on behalf of a caller."""

    def __init__(self, config: ServeConfig, generators: Mapping[str, Generators], writer: Writer, secret: bytes):
        self.config = config
        self.secret = secret
        """Signs sessions and image addresses; the same in every replica."""
        self.specs = [generator_spec(name) for name in config.generators]
        self.generators = generators
        """Name of the generator → its processes."""
        self.writer = writer
        self.workspace = Workspace.open(config.workspace)

    def plan(self, caller: Caller, request: ImageRequest, **context: Any) -> Order:
        """The order of a request; see `plan_order` for `context`. Raises ApiError."""
        return plan_order(caller, request, self.specs, self.config, **context)

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        """Rate headers of a request for so many images. Raises ApiError (429)."""
        if caller.rate_per_minute is None and caller.budget_usd is None:
            return {}
        return await self.writer.admit(caller, images)

    async def generate(self, order: Order) -> list[Served]:
        """All images of an order. Raises ApiError."""
        try:
            async with asyncio.timeout(order.deadline_seconds):
                return await self._of(order).generate(order)
        except TimeoutError:
            raise _too_late(order) from None

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        """The events of an order; a failure of the order is an event too."""
        try:
            async with asyncio.timeout(order.deadline_seconds):
                async for event in self._of(order).stream(order):
                    yield event
        except TimeoutError:
            yield Event("failed", error=_too_late(order))
        except ApiError as error:
            yield Event("failed", error=error)
        except Exception as error:  # the answer has begun, so that no other one can be sent
            log.error("request %s failed", order.request_id, exc_info=error)
            yield Event("failed", error=ApiError(500, "the server failed", code="server_error"))

    async def search(self, search: Search) -> list[Hit]:
        """The nearest images that the caller may see. Raises ApiError."""
        return await self.generators[self.specs[0].name].search(search)

    async def add(self, new: NewObject) -> list[str]:
        """Adds real images; they are found as soon as this returns. Raises ApiError."""
        return await self.generators[self.specs[0].name].add(new)

    async def metrics(self) -> dict[str, list[Mapping[str, Any]]]:
        """Generator → the newest counts of each of its processes."""
        return await self.writer.metrics()

    async def image(self, caller: Caller, image_id: str, columns: Sequence[str] = PLAIN) -> dict[str, Any]:
        """Columns of one image that the caller may see. Raises ApiError (404) for all others."""
        return await asyncio.to_thread(self._image, caller, image_id, columns)

    async def rows(self, name: str, where: str | None = None) -> list[dict[str, Any]]:
        """Rows of a small table (`heads`, `studies`, `ratings`, `requests`, `errors`)."""
        return await asyncio.to_thread(lambda: self.workspace.read(name, where).to_pylist())

    def retrievers(self) -> list[str]:
        """Names for the field `retriever`: `none`, `zero`, and the labels and names of the trained heads."""
        heads = self.workspace.dataset("heads").to_table(columns=["name", "label"], filter="NOT kept").to_pylist()
        return list(dict.fromkeys(["none", "zero", *(row["label"] for row in heads), *(row["name"] for row in heads)]))

    def _of(self, order: Order) -> Generators:
        return self.generators[order.recipes[0].generator]

    def _image(self, caller: Caller, image_id: str, columns: Sequence[str]) -> dict[str, Any]:
        wanted = list(dict.fromkeys([*columns, "owner"]))
        found = self.workspace.fetch([image_id], wanted).to_pylist() if len(image_id) <= 64 else []
        if found and (found[0]["owner"] in (None, caller.key_id) or self._has_asked(caller, image_id)):
            return dict(found[0])
        raise ApiError(404, f"there is no image {image_id[:64]!r}", code="image_not_found", param="id")

    def _has_asked(self, caller: Caller, image_id: str) -> bool:
        where = f"key_id = {quote(caller.key_id)} AND image_id = {quote(image_id)}"
        return bool(self.workspace.dataset("requests").count_rows(where))


def _too_late(order: Order) -> ApiError:
    return ApiError(
        504, f"the images were not ready within {order.deadline_seconds:g} s; try again later", code="deadline_exceeded"
    )
