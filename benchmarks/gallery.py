#!/usr/bin/env python3
"""The gallery's first page with its 60 thumbnails over a million rows, against a bare read of the same 60 rows.

python -m benchmarks.gallery --rows 100000
python -m benchmarks.gallery

The rows are images of 32 x 32 pixels of 1,000 classes, 4 data sets, 3 sources and 20 runs; every tenth belongs to another key. A page
is an HTTP request in this process (no socket), its pictures included. The first request opens the table; the median is of the others.
Goal: <= 300 ms on two cores.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request, Response

from benchmarks.common import machine, show
from engine.images import encode_png
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.pages import router
from engine.serving.service import Service
from engine.store import Committer, Workspace, write_fragments

CALLER = Caller("key-1", "benchmark")
COLUMNS = {
    "class_name": 1_000,
    "dataset": 4,
    "source": 3,
    "run_id": 20,
    "strategy": 5,
    "owner": 10,
}
"""Column → number of its values."""
PAGES = {
    "first page": "",
    "next page": "?before=999000",
    "page in the middle": "?before=500000",
    "one source": "?source=generative",
    "one class": "?class=class_name+7",
    "one class of one run": "?class=class_name+7&run=run_id+7",
    "nothing found": "?class=missing",
}


def build(workspace: Workspace, rows: int, size: int) -> None:
    """Commits the rows, 50,000 per fragment, and indexes them as a run does at its end."""
    workspace.ensure_columns(pa.schema([("owner", pa.string())]))
    random = np.random.default_rng(0)
    pictures = [encode_png(np.full((size, size, 3), random.integers(0, 256, 3), np.uint8)) for _ in range(256)]
    schema = workspace.image_schema()
    with Committer(workspace) as committer:
        for start in range(0, rows, 50_000):
            numbers = np.arange(start, min(start + 50_000, rows))
            columns: dict[str, Any] = {
                field.name: pa.array([{pa.string(): "x"}.get(field.type, size)] * len(numbers), field.type)
                for field in schema
                if field.name not in ("image", "owner")
            }
            columns["id"] = pa.array([f"{number:032x}" for number in numbers])
            columns["image"] = pa.array([pictures[number % 256] for number in numbers], pa.large_binary())
            for name, count in COLUMNS.items():
                columns[name] = pa.array([f"{name} {value}" for value in numbers * 7919 % count])
            sources = np.array(["original", "retrieval", "generative"])
            columns["source"] = pa.array(sources[numbers % 3])
            columns["owner"] = pa.array([f"key-{value}" if value == 2 else None for value in numbers % 10])
            committer.add(write_fragments(workspace.uri, "images", pa.table(columns, schema=schema)))
    workspace.build_indices()


def application(workspace: str) -> FastAPI:
    """The pages, for one caller."""
    nothing: Any = None
    app = FastAPI()
    app.include_router(router(Service(ServeConfig(workspace=workspace), {}, nothing, b"secret"), nothing))

    @app.middleware("http")
    async def identify(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.caller = CALLER
        return await go_on(request)

    return app


async def measure(workspace: Workspace, repeats: int, num_rows: int) -> None:
    """Prints one line per page, and the ratio of the first to a bare read."""
    transport = httpx.ASGITransport(application(workspace.uri))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        medians = {}
        for name, query in PAGES.items():
            times = []
            for _ in range(repeats + 1):
                started = time.perf_counter()
                answer = await client.get(f"/gallery{query}")
                times.append(1e3 * (time.perf_counter() - started))
                assert answer.status_code == 200, answer.text
            thumbnails = answer.text.count('src="data:image/')
            assert thumbnails == (0 if name == "nothing found" else 60), (name, thumbnails)
            medians[name] = show(f"{name} (at first {times[0]:.0f} ms)", times[1:], "ms")
        for name, path in {"choices of the filters": "/gallery/choices"}.items():
            times = []
            for _ in range(repeats + 1):
                started = time.perf_counter()
                assert (await client.get(path)).status_code == 200
                times.append(1e3 * (time.perf_counter() - started))
            show(f"{name} (at first {times[0]:.0f} ms)", times[1:], "ms")
    bare = []
    for _ in range(repeats):
        started = time.perf_counter()
        workspace.dataset("images").take(list(range(num_rows - 60, num_rows)))
        bare.append(1e3 * (time.perf_counter() - started))
    least = show("bare read of the last 60 rows", bare, "ms")
    print(f"first page ÷ bare read: {medians['first page'] / least:.1f} (goal: first page <= 300 ms)")


def main() -> None:
    """Builds the workspace, if it is not there, and prints the times of its pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep the workspace there, and use it if it is there")
    options = parser.parse_args()
    print(f"{machine()}; {options.rows:,} rows")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "workspace"
        made = not folder.exists()
        workspace = Workspace.open(folder)
        if made:
            started = time.perf_counter()
            build(workspace, options.rows, 32)
            print(f"workspace made in {time.perf_counter() - started:.0f} s")
        asyncio.run(measure(workspace, options.repeats, options.rows))


if __name__ == "__main__":
    main()
