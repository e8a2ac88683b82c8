"""Embedding on a GPU: the encoder alone, and from JPEG bytes in the table to vectors, against the bare model and bare decoding."""

import io
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.gpu.models import save_vit_b_32
from benchmarks.gpu.rows import Busy, Machine, Row, seconds
from engine.images import content_hash, decode_image
from engine.models import ImageEncoder, load_encoder
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.sources import Generates, Made, Stored
from engine.testing.makers import FlatPlan

PICTURES = 64
"""Distinct JPEGs; a table repeats them."""


def jpegs(num: int = PICTURES) -> list[bytes]:
    """Pictures of 512x384 with coarse shapes and a photograph's noise, about 68 kB each."""
    from PIL import Image

    random = np.random.default_rng(0)
    found = []
    for _ in range(num):
        coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), np.uint8)).resize(
            (512, 384), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(int) + random.integers(-12, 12, (384, 512, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def encoder_of(machine: Machine) -> ImageEncoder:
    """ViT-B/32 on the machine's device."""
    folder = machine.folder / "vit-b-32"
    if not folder.exists():
        save_vit_b_32(folder, machine.tiny)
    return load_encoder(str(folder), device=machine.device)


def encode(machine: Machine) -> Iterator[Row]:
    """`encode_images` against the bare model."""
    encoder, device = encoder_of(machine), machine.device
    num = 16 if machine.tiny else 2_048
    height, width = encoder.preprocessing.size
    ready = torch.randint(0, 255, (num, 3, height, width), dtype=torch.uint8, device=device)
    batch = torch.randn(encoder.batch_size, 3, height, width, device=device, dtype=getattr(torch, encoder.dtype))
    calls = -(-num // encoder.batch_size)
    with torch.inference_mode():
        bare = calls * len(batch) / seconds(lambda: [encoder._model.encode_image(batch) for _ in range(calls)], device)
    yield Row(f"bare model, batch {encoder.batch_size}", bare, "images/s")
    rate = num / seconds(lambda: encoder.encode_images(ready), device)
    yield Row("encode_images, ready on the device", rate, "images/s")
    yield Row("encode_images, ready on the device ÷ bare model", rate / bare, "", least=0.9, on_any_card=True)
    some = torch.randint(0, 255, (min(num, 512), 3, 384, 512), dtype=torch.uint8)
    images = [some[number % len(some)] for number in range(num)]
    yield Row(
        "encode_images, 512x384 on the host",
        num / seconds(lambda: encoder.encode_images(images), device),
        "images/s",
        least=12_000,
    )
    there = list(some.to(device))
    rate = len(there) / seconds(lambda: encoder.encode_images(there), device)
    yield Row("encode_images, 512x384 on the device", rate, "images/s")
    yield Row("encode_images, 512x384 on the device ÷ bare model", rate / bare, "", least=0.9, on_any_card=True)


@dataclass
class JpegMaker(Generates):
    """Stores the same pictures again and again, as a source that keeps its files does."""

    rows_per_call: int = 256
    gpus_per_actor: float = 0.25

    def load(self, device: str) -> None:
        """Draws the pictures."""
        pixels = [(data, decode_image(data)) for data in jpegs()]
        self._stored = [Stored(data, content_hash(array), *array.shape[:2]) for data, array in pixels]

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """One picture per recipe."""
        return [Made(stored=self._stored[recipe.seed % len(self._stored)]) for recipe in recipes]


def decode_and_resize(data: Sequence[bytes], size: Preprocessing) -> float:
    """Seconds that one process takes."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    for one in data:
        size.resize_array(decode_image(one))
    return time.perf_counter() - started


def decoding_rate(size: Preprocessing, num_processes: int, rounds: int) -> float:
    """Images per second that so many processes decode and resize, with nothing else to do."""
    data = jpegs() * rounds
    with ProcessPoolExecutor(num_processes) as pool:
        list(pool.map(decode_and_resize, [data[:2]] * num_processes, [size] * num_processes))
        started = time.perf_counter()
        list(pool.map(decode_and_resize, [data] * num_processes, [size] * num_processes))
        return num_processes * len(data) / (time.perf_counter() - started)


def embed(machine: Machine) -> Iterator[Row]:
    """From JPEG bytes in the table to vectors, through the pool of `Run.embed`."""
    from engine.costs import PriceBook
    from engine.dataflow.apply import apply_stage
    from engine.dataflow.resources import choose_ask, current_cluster
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.store import Workspace

    encoder = encoder_of(machine)
    rounds = 1 if machine.tiny else 3
    allowed = decoding_rate(encoder.preprocessing, os.cpu_count() or 1, rounds)
    yield Row(f"decoding and resizing alone, {os.cpu_count()} processes", allowed, "images/s")
    num = 512 if machine.tiny else 98_304
    workspace = Workspace.open(machine.folder / "jpegs")
    with Run(workspace, PriceBook.load()) as run:
        run.fill("pictures", FlatPlan(num), JpegMaker())
    ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
    cluster = current_cluster(may_grow=False)
    for decode in ("cpu", "gpu"):
        stage = Embed.of(encoder, decode=decode)  # type: ignore[arg-type]
        ask = choose_ask(cluster, stage.num_gpus)
        if decode == "gpu" and not ask.num_gpus:
            continue
        arrivals: list[tuple[float, int]] = []
        with Busy(machine.device) as busy:
            room = min(cluster.room(ask), -(-num // 256))
            for part in apply_stage(ids, stage, workspace.uri, ask, (room, room), cluster.spare_cpus(ask)):
                arrivals.append((time.perf_counter(), (arrivals[-1][1] if arrivals else 0) + part.table.num_rows))
        assert arrivals[-1][1] == num
        late = len(arrivals) * 3 // 4  # what was read ahead while the encoder loaded is used up by then
        rate = (num - arrivals[late - 1][1]) / (arrivals[-1][0] - arrivals[late - 1][0])
        what = f"JPEG bytes to vectors, decoded on the {decode}"
        yield Row(what, rate, "images/s", least=6_000 if decode == "cpu" else 12_000)
        if decode == "cpu":
            yield Row(f"{what} ÷ decoding and resizing alone", rate / allowed, "", least=0.85, on_any_card=True)
        yield Row(f"{what}: GPU busy", busy.between(arrivals[late][0], arrivals[-1][0]))
        print(f"<!-- {num} images in {arrivals[-1][0] - busy._started:.1f} s from the start -->")
