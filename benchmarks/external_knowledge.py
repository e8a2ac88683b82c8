"""Web-scale retrieval from end to end, offline: a corpus of over 100,000 captions, a web server with every kind of dead link, and the studies.

`python -m benchmarks.external_knowledge --place FOLDER` writes a table of addresses and captions of the miniature pool, serves its pictures on
loopback, and runs the commands as a user would: `build-corpus`, `fetch`, `genbench --fetched`, `metrics --corpus`. The reports stay in FOLDER.
"""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from aiohttp import web

from benchmarks.common import TreeClock, machine
from engine.catalog.corpus import read_images
from engine.catalog.worlds import resolve_location
from engine.cli.main import main as imagefoundry
from engine.sources.retrieval import read_pool

FAULTS = ("404", "html", "circle", "noai", "huge", "breaks", "bomb")
DATASETS = ("mini-common", "mini-fine", "mini-rare", "mini-novel")


@dataclass(frozen=True)
class Config:
    """The corpus and the studies."""

    place: str
    """Folder for the table, the workspace and the reports."""
    variants: int = 100_000
    """Captions beside those of the pool: the same with a number, so that each is its own."""
    dead: float = 0.3
    """Share of dead links."""
    shots: int = 10
    """Pictures per class."""
    generated: int = 5
    """Generated images per class in the metric study."""
    port: int = 18_431
    """Port of the web server on loopback; the addresses in the table name it."""


class Site:
    """Pictures of the pool by their number, `/ok/N`; other paths are faults."""

    def __init__(self) -> None:
        self._location = resolve_location("world:mini-web")
        self.index = read_pool(self._location)
        self.requests: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One answer."""
        kind, _, rest = request.path.strip("/").partition("/")
        self.requests[kind] += 1
        if kind == "ok":
            (data,) = read_images(self._location, [str(self.index.keys[int(rest)])])
            return web.Response(body=data, content_type="image/webp")
        if kind == "circle":
            return web.Response(status=302, headers={"Location": f"/circle/{'b' if rest != 'b' else 'a'}"})
        if kind == "noai":
            return web.Response(body=b"\xff\xd8", content_type="image/jpeg", headers={"X-Robots-Tag": "noai"})
        if kind == "html":
            return web.Response(body=b"<html>this domain is for sale</html>", content_type="image/jpeg")
        if kind == "bomb":
            header = bytes.fromhex("89504e470d0a1a0a0000000d49484452") + (60_000).to_bytes(4, "big") * 2
            return web.Response(body=header + bytes.fromhex("0802000000") + bytes(64), content_type="image/png")
        if kind in ("huge", "breaks"):
            length = {"huge": 10**12, "breaks": 1_000}[kind]
            response = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": str(length)})
            await response.prepare(request)
            await response.write(b"\xff\xd8 half")
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(status=404)


@contextmanager
def serving(port: int) -> Iterator[Site]:
    """The site in a thread of its own."""
    site, loop, ready = Site(), asyncio.new_event_loop(), threading.Event()

    async def start() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", site.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()

    def run() -> None:
        loop.create_task(start())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(60)
    yield site
    loop.call_soon_threadsafe(loop.stop)


def write_table(config: Config, site: Site, folder: Path) -> int:
    """Rows of the pool, then variants of its captions; returns their number."""
    rng = np.random.default_rng(0)
    num_images = len(site.index.keys)
    image = np.concatenate([np.arange(num_images), rng.integers(0, num_images, config.variants)])
    texts = [str(text) for text in site.index.texts]
    captions = texts + [f"{texts[at]} {number}" for number, at in enumerate(image[num_images:].tolist())]
    fault = np.where(rng.random(len(image)) < config.dead, rng.integers(0, len(FAULTS), len(image)), -1)
    host = f"http://127.0.0.1:{config.port}"
    urls = [
        f"{host}/{FAULTS[kind]}/{row}" if kind >= 0 else f"{host}/ok/{at}?{row}"
        for row, (kind, at) in enumerate(zip(fault.tolist(), image.tolist(), strict=True))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "0.parquet").exists():  # a second run goes on with the same corpus
        pq.write_table(pa.table({"URL": urls, "TEXT": captions}), folder / "0.parquet", row_group_size=16_384)
    return len(urls)


def step(name: str, arguments: list[str]) -> None:
    """Runs one command and prints its seconds; ends the benchmark if it fails."""
    print(f"\n$ imagefoundry {name} {' '.join(arguments)}", flush=True)
    with TreeClock() as clock:
        started = time.monotonic()
        code = imagefoundry([name, *arguments])
        wall = time.monotonic() - started
    used = clock.samples[-1][1] - clock.samples[0][1]
    print(f"{name}: exit {code}, {wall:.0f} s wall, {used:.0f} processor seconds", flush=True)
    if code:
        sys.exit(code)


def main(config: Config) -> None:
    """Runs all steps."""
    print(machine())
    place = Path(config.place)
    with serving(config.port) as site:
        print(f"{write_table(config, site, place / 'tables'):,} rows, {config.dead:.0%} of them dead links")
        work = ["--workspace", str(place / "workspace")]
        data = ["--datasets", *DATASETS]
        step("build-corpus", [str(place / "tables"), "--corpus", "web", *work])
        polite = [
            "--per-host",
            "32",
            "--seconds-between",
            "0",
            "--retry-seconds",
            "0",
            "--allow-networks",
            "127.0.0.0/8",
        ]
        fetch = ["--corpus", "web", "--shots", str(config.shots), *data, *work, *polite]
        step("fetch", fetch)
        before = site.requests.total()
        step("fetch", fetch)
        print(f"requests of the second fetch: {site.requests.total() - before}; of the first: {dict(site.requests)}")
        shots = [str(shots) for shots in (1, 5, config.shots) if shots <= config.shots]
        report = ["--report", str(place / "genbench")]
        step(
            "genbench",
            ["--fetched", "web", "--sources", "retrieval", "original", "--shots", *shots, *data, *work, *report],
        )
        few = str(config.generated)
        report = ["--shots", few, "--compare-shots", few, "--seeds", "0", "--report", str(place / "metrics")]
        step(
            "metrics",
            ["--corpus", "web", "--sources", "generative", "--nearest-captions", "100", *data, *work, *report],
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
