"""`GeneratorReplica`: one process of one generator, with the retriever, the batching queue and the embedding of what it makes."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from engine.costs import PriceBook, usd_per_device_second
from engine.dataflow.rows import Pricing, Row
from engine.images import content_hash, decode_image, encode_png
from engine.models import DiffusionGenerator, generator_spec, load_encoder, load_generator
from engine.models.device import device_name
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.serving.config import ServeConfig
from engine.serving.database import ImageDatabase
from engine.serving.errors import ApiError, param_of
from engine.serving.finishing import Finished, Finisher
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.queue import BatchQueue, Job
from engine.serving.rows import Rows, request_row, to_bytes
from engine.sources import Made, Stored, kinds
from engine.store import Workspace

Emit = Callable[[Event], None]
MOST_EMBEDDED = 32
"""Images per call of the encoder."""


class PutRows(Protocol):
    """Commits rows, as `TableWriter.put` does, wherever the writer runs."""

    async def __call__(
        self, tables: Mapping[str, bytes], work: list[dict[str, Any]], counts: dict[str, Any]
    ) -> list[str]: ...


@dataclass
class _Making:
    """An image that is being made, for one or several requests at once."""

    job: Job
    task: "asyncio.Task[Served]"
    wanted_by: int = 0
    watchers: list[tuple[int, Emit]] = field(default_factory=list)


class GeneratorReplica:
    """Makes the images of orders and answers searches; keeps nothing that the table lacks."""

    def __init__(
        self,
        config: ServeConfig,
        generator: str,
        put: PutRows,
        *,
        num_gpus: float = 0.0,
        device: str = "cpu",
    ):
        self._config, self._put = config, put
        spec = generator_spec(generator)
        self._generator = load_generator(spec, device=device)
        self.spec = self._generator.spec
        self._encoder = load_encoder(config.encoder, device=device, batch_size=1)
        self._workspace = Workspace.open(config.workspace)
        self._database = ImageDatabase(self._workspace, self._encoder)
        self._device_name = device_name(device)
        prices = PriceBook.load(config.price_book)
        accelerator = self._device_name if self._device_name != "cpu" else "gpu" if num_gpus else None
        instance = prices.instance(config.instance) if config.instance else prices.for_device(accelerator)
        self._pricing = Pricing(
            usd_per_device_second(instance, num_gpus=num_gpus, num_cpus=0.0 if num_gpus else 1.0),
            {kind.name: kind.usd_per_label(prices) for kind in kinds.SOURCE_KINDS},
        )
        self.queue = BatchQueue(
            self._generator,
            max_batch=config.max_batch or self.spec.batch_size,
            max_waiting=config.max_queue,
            max_wait_seconds=config.max_wait_seconds,
        )
        self._name, self._started = uuid.uuid4().hex[:8], time.monotonic()
        self._num_inside = 0
        self._making: dict[str, _Making] = {}
        self._encoding = ThreadPoolExecutor(1, "encode")
        """Embeds and encodes what was made, while the device makes the next batch."""
        self._finisher = Finisher(self._embed, self._commit, self._encoding, self._pricing.usd_per_device_second)
        self._searching = ThreadPoolExecutor(1, "search")
        self._reading = ThreadPoolExecutor(1, "read")
        """Decodes what is uploaded, one image after the other: a small file may hold 64 million pixels."""
        self._encoder_lock = threading.Lock()
        if config.warm_up and not self._generator.adapter.needs_reference:
            self.queue.warm_up(_sample_recipe(self._generator))

    def check(self) -> None:
        """Raises the fault of the device after which this process has to be replaced."""
        if self.queue.fault:
            raise self.queue.fault

    def close(self) -> None:
        """Makes what waits and ends the threads."""
        self.queue.close()
        self._encoding.shutdown()
        self._searching.shutdown()
        self._reading.shutdown()

    async def generate(self, order: Order) -> list[Served]:
        """All images of an order. Raises ApiError."""
        with self._inside(order):
            recipes, references = await self._complete(order)
            tasks = [
                asyncio.ensure_future(self._serve(order, recipe, references, lambda event: None)) for recipe in recipes
            ]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        """The events of an order. Raises ApiError for the whole order; one image's failure is its own event."""
        with self._inside(order):
            async for event in self._events(order):
                yield event

    async def _events(self, order: Order) -> AsyncIterator[Event]:
        recipes, references = await self._complete(order)
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        async def one(number: int, recipe: Recipe) -> None:
            try:
                served = await self._serve(order, recipe, references, lambda event: emit(replace(event, number=number)))
                emit(Event("completed", number, image=served))
            except ApiError as error:
                emit(Event("failed", number, error=error))

        tasks = [asyncio.ensure_future(one(number, recipe)) for number, recipe in enumerate(recipes)]
        left = len(tasks)
        try:
            while left:
                event = await events.get()
                left -= event.kind in ("completed", "failed")
                yield event
        finally:
            for task in tasks:
                task.cancel()

    @contextmanager
    def _inside(self, order: Order) -> Iterator[None]:
        """Counts an order's images as long as it is here, and refuses it at once if the queue could not take them.

        Without it, any number of requests would wait for the look into the table that comes before the queue.
        Raises ApiError (503).
        """
        images = len(order.recipes)
        if self._num_inside + images > self._config.max_queue + self.queue.most:
            raise ApiError(503, "the queue is full; try again later", code="queue_full", retry_after=2)
        self._num_inside += images
        try:
            yield
        finally:
            self._num_inside -= images

    async def search(self, search: Search) -> list[Hit]:
        """The nearest images. Raises ApiError."""
        return await self._in_thread(self._database.search, search)

    async def add(self, new: NewObject) -> list[str]:
        """Embeds and commits real images; those that the table has are not added again. Raises ApiError."""
        owner = None if new.shared else new.caller.key_id
        size = None if new.is_reference_only else self._encoder.preprocessing
        rows, pixels = await asyncio.get_running_loop().run_in_executor(self._reading, _read, new, owner, size)
        columns: dict[str, np.ndarray] = {}
        if new.is_reference_only:
            seconds = 0.0
        else:
            started = time.perf_counter()
            columns = await self._in_thread(self._embed, pixels)
            seconds = (time.perf_counter() - started) / len(rows)
        for row in rows:
            row.stage_seconds = {"embed": seconds}
        tables = Rows(rows, columns, [owner] * len(rows))
        await self._commit(tables)
        return [row.recipe.id for row in rows]

    def counts(self) -> dict[str, Any]:
        """What this process has done since its start, for `/metrics`."""
        counts = self.queue.counts
        return {
            **vars(counts),
            "batch_sizes": dict(counts.batch_sizes),
            "generator": self.spec.name,
            "process": self._name,
            "waiting": self.queue.num_waiting,
            "usd": counts.busy_seconds * self._pricing.usd_per_device_second,
            "up_seconds": time.monotonic() - self._started,
        }

    async def _complete(self, order: Order) -> tuple[list[Recipe], dict[str, np.ndarray]]:
        """The recipes of an order with their references, checked; and the pixels of the references."""
        ids = list(order.references.ids)
        pixels: dict[str, np.ndarray] = {}
        if order.references.retriever != "none":
            asked = order.references
            search = Search(
                order.caller,
                text=order.recipes[0].prompt,
                retriever=asked.retriever,
                k=asked.k,
                datasets=asked.datasets,
                class_names=asked.class_names,
                sources=asked.sources,
            )
            pixels = await self._in_thread(self._database.retrieve, search)
            ids = list(pixels)
        elif ids:
            pixels = await self._in_thread(self._database.references, order.caller, ids)
        recipes = []
        for number, recipe in enumerate(order.recipes):
            if ids:
                asked = order.references
                fields = self.spec.recipe_fields(ids[number % len(ids)], asked.mode, asked.scale)
                names = ("revision", "reference_id", "reference_mode", "reference_scale")
                recipe = replace(recipe, **{name: fields[name] for name in names})
            try:
                self._generator.check(recipe)
            except ValueError as error:
                raise ApiError(400, str(error), code="invalid_value", param=param_of(str(error))) from error
            recipes.append(recipe)
        return recipes, pixels

    async def _serve(self, order: Order, recipe: Recipe, references: Mapping[str, np.ndarray], emit: Emit) -> Served:
        """One image: from the table, from the request that is already making it, or made now."""
        known = await self._in_thread(self._from_table, recipe)
        if known is not None:
            await self._note(order, known)
            return known
        making = self._making.get(recipe.id)
        if making is None or making.job.is_cancelled:
            job = Job(recipe, references.get(recipe.reference_id), order.num_previews)
            making = _Making(job, None)  # type: ignore[arg-type]
            self._start(making, order)
            is_first = True
        else:
            is_first = False
        making.wanted_by += 1
        watcher = (order.num_previews, emit)
        making.watchers.append(watcher)
        ahead, seconds = self.queue.place(making.job)
        emit(Event("queued", position=ahead, eta_seconds=seconds))
        try:
            served = await asyncio.shield(making.task)
        finally:
            making.wanted_by -= 1
            making.watchers.remove(watcher)
            if not making.wanted_by:
                making.job.is_cancelled = True
        if not is_first:
            served = replace(served, is_new=False, usd=0.0)
            await self._note(order, served)
        return served

    def _start(self, making: _Making, order: Order) -> None:
        job, loop = making.job, asyncio.get_running_loop()

        def tell(event: Event) -> None:
            for previews, emit in list(making.watchers):
                if event.kind != "preview" or event.preview_index < previews:
                    emit(event)

        def show(index: int, pixels: np.ndarray) -> None:
            self._encoding.submit(
                lambda: loop.call_soon_threadsafe(
                    tell, Event("preview", preview=encode_png(pixels), preview_index=index)
                )
            )

        def begin() -> None:
            loop.call_soon_threadsafe(tell, Event("started"))

        job.on_start = begin
        job.on_preview = show
        self.queue.submit([job])
        making.task = asyncio.ensure_future(self._make(job, order))
        self._making[job.recipe.id] = making
        making.task.add_done_callback(lambda task: self._forget(making))

    def _forget(self, making: _Making) -> None:
        if self._making.get(making.job.recipe.id) is making:
            del self._making[making.job.recipe.id]
        if not making.task.cancelled():
            making.task.exception()  # a failure that nobody waits for any more

    async def _make(self, job: Job, order: Order) -> Served:
        done = await asyncio.wrap_future(job.result)
        row = Row(0, job.recipe, done.made, make_seconds=done.seconds)
        if row.reason:
            reason = row.reason.removeprefix("ValueError: ")
            if reason != row.reason and param_of(
                reason
            ):  # the generator refuses the request, such as a prompt that is too long
                raise ApiError(400, reason, code="invalid_value", param=param_of(reason))
            await self._commit(Rows([row], {}, [None]))
            raise ApiError(500, f"the image could not be made: {row.reason[:300]}", code="generation_failed")
        is_present = await self._finisher.finish(Finished(row, order, job.wait_seconds))
        usd = row.seconds * self._pricing.usd_per_device_second
        if is_present:
            # another process made the same recipe meanwhile: its row stays
            known = await self._in_thread(self._from_table, job.recipe)
            if known is not None:
                return replace(known, is_new=True, usd=usd, wait_seconds=job.wait_seconds)
        return Served(
            recipe=job.recipe,
            image=row.image().encoded,
            is_new=True,
            usd=usd,
            device_seconds=row.seconds,
            wait_seconds=job.wait_seconds,
            batch_size=row.made.batch_size,
            dtype=row.made.dtype,
            device=self._device_name,
        )

    def _embed(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        with self._encoder_lock:
            # the encoder pads to its batch size, so a few sizes are enough
            self._encoder.batch_size = min(MOST_EMBEDDED, 1 << (len(images) - 1).bit_length())
            return self._database.embeddings(self._database.encode_images(images))

    def _from_table(self, recipe: Recipe) -> Served | None:
        columns = ["image", "device_seconds", "batch_size", "dtype", "device"]
        found = self._workspace.fetch([recipe.id], columns).to_pylist()
        if not found:
            return None
        row = found[0]
        facts = {name: row[name] for name in columns[1:]}
        return Served(recipe, row["image"], is_new=False, usd=0.0, wait_seconds=0.0, **facts)

    async def _note(self, order: Order, served: Served) -> None:
        """Records an image that a request got without making it."""
        row = request_row(order, served.recipe.id, False, served.wait_seconds, 0.0, 0.0)
        await self._put({"requests": to_bytes(pa.Table.from_pylist([row]))}, [], self.counts())

    async def _commit(self, rows: Rows) -> list[str]:
        tables, work = rows.to_bytes(self._pricing, f"serve-{self.spec.name}", self._device_name)
        return await self._put(tables, work, self.counts())

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._searching, function, *arguments)


def _sample_recipe(generator: DiffusionGenerator) -> Recipe:
    fields = generator.spec.recipe_fields()
    return Recipe(source="generative", dataset="", class_index=0, class_name="", prompt="a photo", **fields)


def _read(new: NewObject, owner: str | None, size: Preprocessing | None) -> tuple[list[Row], list[np.ndarray]]:
    """The rows of new images, and their pixels `[h, w, 3]` at this size, none without it. Raises ApiError (400) for what is not an image."""
    rows, pixels = [], []
    for number, data in enumerate(new.images):
        try:
            image = decode_image(data)
        except ValueError as error:
            raise ApiError(400, f"image {number + 1}: {error}", code="invalid_image", param="image") from error
        key = content_hash(image)
        recipe = Recipe(
            source="original",
            dataset=new.dataset,
            class_index=0,
            class_name=new.name,
            corpus=f"{new.dataset}/{owner}" if owner else new.dataset,
            key=key,
        )
        stored = Stored(data, key, image.shape[0], image.shape[1])
        rows.append(Row(0, recipe, Made(stored=stored), make_seconds=0.0, stored=stored))
        if size is not None:
            pixels.append(np.moveaxis(size.resize_array(image), 0, 2))
    return rows, pixels
