"""The pages over a real workspace, with a generator that paints, and a server on loopback."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import uvicorn
from starlette.types import ASGIApp

from engine.images import content_hash, encode_png
from engine.recipe import ERROR_SCHEMA, Recipe
from engine.serving.app import build_app
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.keys import KeyRing, hash_key
from engine.serving.orders import Event, Hit, NewObject, Order, Search, Served
from engine.serving.service import Service
from engine.serving.signatures import COOKIE, session_cookie
from engine.store import Committer, Workspace, write_fragments
from engine.store.schemas import TABLES
from engine.testing.data import class_image

ANN, BOB = Caller("key-ann", "Ann"), Caller("key-bob", "Bob")
KEY, BOBS_KEY = "if-the-key-of-ann", "if-the-key-of-bob"
CLASSES = ("red apple", "green tree", "blue boat", "yellow sun")
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
RUN = "run-1"
STRATEGIES = {"plain": "", "realrag": "ref"}


def image_row(recipe: Recipe, pixels: np.ndarray, **more: Any) -> dict[str, Any]:
    """A row of `images`."""
    row = recipe.as_dict() | {"id": recipe.id, "image": encode_png(pixels), "content_hash": content_hash(pixels)}
    row |= {"image_height": pixels.shape[0], "image_width": pixels.shape[1], "device_seconds": 0.25}
    row |= {
        "usd_compute": 0.00002,
        "usd_labels": 0.0,
        "run_id": RUN,
        "batch_size": 4,
        "dtype": "float32",
        "device": "cpu",
    }
    return row | {"owner": None} | more


def add_images(workspace: Workspace, rows: list[dict[str, Any]]) -> None:
    """Commits rows."""
    table = pa.Table.from_pylist(rows, schema=workspace.image_schema())
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "images", table))


def original(class_index: int, number: int) -> Recipe:
    return Recipe(
        source="original",
        dataset="things",
        class_index=class_index,
        class_name=CLASSES[class_index],
        corpus="things",
        key=str(number),
    )


def generated(class_index: int, seed: int, reference_id: str = "", **more: Any) -> Recipe:
    values: dict[str, Any] = {
        "source": "generative",
        "dataset": "things",
        "class_index": class_index,
        "class_name": CLASSES[class_index],
        "strategy": "retrieval_augmented" if reference_id else "simple_template",
        "prompt": f"a photo of a {CLASSES[class_index]}",
        "generator": "mini",
        "num_inference_steps": 4,
        "height": 32,
        "width": 32,
        "seed": seed,
        "reference_id": reference_id,
        "reference_mode": "controlnet" if reference_id else "",
    }
    return Recipe(**values | more)


def make_workspace(folder: Path, per_class: int = 6) -> Workspace:
    """Originals, generated images with and without references, one of another key, an error and a run."""
    workspace = Workspace.open(folder)
    workspace.ensure_columns(pa.schema([("owner", pa.string())]))
    rows = []
    for number in range(per_class):
        for place in range(len(CLASSES)):
            real = original(place, number)
            rows.append(image_row(real, class_image(place, number)))
            rows.append(image_row(generated(place, number), class_image(place, 100 + number)))
            rows.append(image_row(generated(place, number, real.id), class_image(place, 200 + number)))
    rows.append(image_row(generated(0, 999, prompt="secret of Bob"), class_image(0, 999), owner=BOB.key_id))
    add_images(workspace, rows)
    failed = generated(1, 77)
    error = failed.as_dict() | {"id": failed.id, "stage": "make", "reason": "out of paint", "device_seconds": 0.1}
    table = pa.Table.from_pylist([error | {"run_id": RUN}], schema=ERROR_SCHEMA)
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "errors", table))
    run = {"run_id": RUN, "started_at": datetime(2026, 11, 1, tzinfo=UTC), "wall_seconds": 60.0, "nodes": 1.0}
    run |= {"instance": "laptop", "usd_per_hour": 0.5, "busy_seconds": 30.0, "usd_busy": 0.004, "usd_billed": 0.008}
    workspace.put_run(run | {"images": len(rows), "errors": 1, "status": "finished", "config": "{}"})
    for label in ("normal",):
        head = {
            "name": f"clip_{label}",
            "trained_from": "",
            "label": label,
            "encoder": "clip",
            "epoch": 1,
            "kept": False,
        }
        head |= {"spec": "{}", "curves": "{}", "weights": b"", "run_id": RUN, "created_at": run["started_at"]}
        workspace.add_rows("heads", pa.Table.from_pylist([head], schema=TABLES["heads"]))
    return workspace


class Painter:
    """`Generators` without a model: paints noise by the seed, and finds images of the class that a text names."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.writing = threading.Lock()

    async def generate(self, order: Order) -> list[Served]:
        return [event.image async for event in self.stream(order) if event.image]

    async def stream(self, order: Order) -> AsyncIterator[Event]:
        yield Event("queued", position=2, eta_seconds=0.5)
        await asyncio.sleep(0)
        yield Event("started")
        if "fail" in order.recipes[0].prompt:
            raise ApiError(503, "the queue is full", code="queue_full", retry_after=1)
        recipe, reference = order.recipes[0], ""
        if order.references.retriever != "none":
            found = await self.search(
                Search(order.caller, text=recipe.prompt, k=1, class_names=order.references.class_names)
            )
            reference = found[0].id if found else ""
        recipe = Recipe(
            **recipe.as_dict() | {"reference_id": reference, "reference_mode": "ip_adapter" if reference else ""}
        )
        for index in range(order.num_previews):
            yield Event("preview", preview=self.paint(recipe, 60 - 25 * index), preview_index=index)
        image = self.paint(recipe, 4)
        is_new = not self.workspace.fetch([recipe.id], ["id"]).num_rows
        if is_new:
            pixels = self.pixels(recipe, 4)
            row = image_row(recipe, pixels, owner=order.caller.key_id, run_id="served")
            await asyncio.to_thread(self.commit, add_images, self.workspace, [row])
        request = {"request_id": order.request_id, "key_id": order.caller.key_id, "image_id": recipe.id}
        request |= {
            "endpoint": order.endpoint,
            "requested_at": datetime.now(UTC),
            "is_new": is_new,
            "wait_seconds": 0.1,
        }
        request |= {"device_seconds": 0.25, "usd": 0.00002 if is_new else 0.0, "end_user": ""}
        await asyncio.to_thread(self.commit, self.workspace.add_rows, "requests", pa.Table.from_pylist([request]))
        usd = 0.00002 if is_new else 0.0
        yield Event("completed", image=Served(recipe, image, is_new, usd, 0.25, 0.1, 1, "float32", "cpu"))

    def commit(self, write: Any, *rows: Any) -> None:
        with self.writing:
            write(*rows)

    def pixels(self, recipe: Recipe, noise: int) -> np.ndarray:
        random = np.random.default_rng([recipe.seed, len(recipe.reference_id), noise])
        size = min(recipe.height or 32, 64)
        place = next((number for number, name in enumerate(CLASSES) if name in recipe.prompt), 0)
        base = class_image(place, recipe.seed % 1000, size).astype(float)
        return np.clip(base + random.normal(0, noise, base.shape), 0, 255).astype(np.uint8)

    def paint(self, recipe: Recipe, noise: int) -> bytes:
        return encode_png(self.pixels(recipe, noise))

    async def search(self, search: Search) -> list[Hit]:
        where = search.caller.sees
        for column, values in (("source", search.sources), ("class_name", search.class_names)):
            if values:
                where += f" AND {column} IN ({', '.join(repr(value) for value in values)})"
        rows = self.workspace.scan(["id", "class_name"], where).read_all().to_pylist()
        text = search.text
        if search.image_id:
            text = self.workspace.fetch([search.image_id], ["class_name"])["class_name"][0].as_py()
        far = [(0.02 if row["class_name"] and row["class_name"] in text else 0.8, row["id"]) for row in rows]
        return [Hit(one, distance) for distance, one in sorted(far)[: search.k]]

    async def add(self, new: NewObject) -> list[str]:
        from engine.images import decode_image

        rows = []
        for number, data in enumerate(new.images):
            recipe = Recipe(
                source="original",
                dataset=new.dataset,
                class_index=0,
                class_name=new.name,
                corpus="added",
                key=f"{new.request_id}/{number}",
            )
            rows.append(image_row(recipe, decode_image(data), owner=new.caller.key_id))
        await asyncio.to_thread(self.commit, add_images, self.workspace, rows)
        return [row["id"] for row in rows]


class TableWriter:
    """`Writer` that commits at once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    async def admit(self, caller: Caller, images: int) -> dict[str, str]:
        return {}

    async def put(self, rows: dict[str, bytes]) -> list[str]:
        for name, data in rows.items():
            with pa.ipc.open_stream(io.BytesIO(data)) as stream:
                table = stream.read_all()
            await asyncio.to_thread(self.workspace.add_rows, name, table)
        return []


def make_service(workspace: Workspace) -> Service:
    generators: dict[str, Any] = {"mini": Painter(workspace)}
    return Service(ServeConfig(workspace=workspace.uri), generators, TableWriter(workspace), b"a secret of the tests")


def make_app(service: Service) -> ASGIApp:
    """The whole application, with a key of Ann and one of Bob."""
    return build_app(service, KeyRing(service.workspace, {hash_key(KEY): ANN, hash_key(BOBS_KEY): BOB}))


def session_of(service: Service, caller: Caller = ANN) -> dict[str, str]:
    """The cookie of a session."""
    return {COOKIE: session_cookie(caller.key_id, service.secret, time.time())}


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The address of the app on a free port of loopback, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    listening = threading.Event()
    start = server.startup

    async def started(sockets: Any = None) -> None:
        await start(sockets)
        listening.set()

    server.startup = started  # type: ignore[method-assign]
    thread.start()
    assert listening.wait(60), "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
