"""What `benchmarks.serve` is measured against: the model in a bare loop, and behind `@serve.batch`."""

import asyncio
import base64
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from engine.recipe import Recipe

BATCH = 8


def recipe_of(spec: Any, body: Mapping[str, Any]) -> Recipe:
    """The recipe of a request's body, without a reference."""
    width, height = (int(part) for part in body["size"].split("x"))
    fields = spec.recipe_fields() | {"width": width, "height": height}
    return Recipe(
        source="generative",
        dataset="peer",
        class_index=0,
        class_name="",
        prompt=body["prompt"],
        seed=body.get("seed", random.getrandbits(62)),
        **fields | {"num_inference_steps": body["num_inference_steps"]},
    )


def reference_of(spec: Any, image_id: str) -> dict[str, Any]:
    """The fields of a recipe with this reference."""
    fields: dict[str, Any] = spec.recipe_fields(image_id, "img2img", 0.5)
    return {name: fields[name] for name in ("revision", "reference_id", "reference_mode", "reference_scale")}


def loaded() -> Any:
    """The miniature generator with one thread, as in a process of the server."""
    import torch

    from engine.models import generator_spec, load_generator

    torch.set_num_threads(1)
    return load_generator(generator_spec("mini"), device="cpu", batch_size=BATCH)


def bare_rate(generator: Any, bodies: Sequence[Mapping[str, Any]], batch: int = BATCH) -> tuple[float, float]:
    """Images per second of a loop over full batches, one of each body; and its CPU seconds per image."""
    generator.batch_size = batch
    started, used = time.perf_counter(), time.process_time()
    for body in bodies:
        generator.generate([recipe_of(generator.spec, body) for _ in range(batch)])
    images = batch * len(bodies)
    return images / (time.perf_counter() - started), (time.process_time() - used) / images


def batch_application() -> Any:
    """The same model behind `@serve.batch`, in one process with its HTTP: no table, no embedding, no second hop."""
    from concurrent.futures import ThreadPoolExecutor

    from fastapi import FastAPI, Request
    from ray import serve

    from engine.images import encode_png

    app = FastAPI()

    @serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
    @serve.ingress(app)
    class Peer:
        """Answers `POST /peer/image`."""

        def __init__(self) -> None:
            self._generator = loaded()
            self._device = ThreadPoolExecutor(1)  # the loop of the process goes on while the model works
            for size in (1, 2, 4, BATCH):
                body = {"size": "32x32", "prompt": "a photo", "num_inference_steps": 4}
                self._make([body] * size)

        @app.post("/image")
        async def post(self, request: Request) -> dict[str, Any]:
            """One image."""
            png, size = await self._batch(await request.json())
            return {"b64_json": base64.b64encode(png).decode(), "batch_size": size}

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.05)
        async def _batch(self, bodies: list[dict[str, Any]]) -> list[tuple[bytes, int]]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._device, self._make, bodies)

        def _make(self, bodies: Sequence[Mapping[str, Any]]) -> list[tuple[bytes, int]]:
            recipes = [recipe_of(self._generator.spec, body) for body in bodies]
            groups: dict[Any, list[int]] = {}
            for number, recipe in enumerate(recipes):
                groups.setdefault(self._generator.batch_key(recipe), []).append(number)
            made: dict[int, tuple[bytes, int]] = {}
            for rows in groups.values():
                self._generator.batch_size = len(rows)
                pixels = self._generator.generate([recipes[row] for row in rows])
                for row, one in zip(rows, pixels, strict=True):
                    made[row] = encode_png(one.permute(1, 2, 0).numpy()), len(rows)
            return [made[number] for number in range(len(bodies))]

    return Peer.bind()  # type: ignore[attr-defined]
