"""A web server on loopback that misbehaves in every way that a path asks for."""

import asyncio
import gzip
import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from aiohttp import web
from PIL import Image


def picture(number: int = 0, size: int = 16) -> bytes:
    """A JPEG of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 x 60,000 pixels."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


class Server:
    """Counts requests; paths are `/ok/N`, and one for each fault."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.robots: str | int | None = None
        """Text of robots.txt, a status, or None for 404."""
        self.at_once = self.most_at_once = 0
        self.port = 0
        self.ended = asyncio.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        self.requests[path] += 1
        self.agents.add(request.headers.get("User-Agent", ""))
        if path == "robots.txt":
            if isinstance(self.robots, str):
                return web.Response(text=self.robots)
            return web.Response(status=self.robots or 404)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            kind, _, rest = path.partition("/")
            return await getattr(self, kind)(request, rest)
        finally:
            self.at_once -= 1

    async def ok(self, request: web.Request, rest: str) -> web.Response:
        await asyncio.sleep(0)  # lets others in that were sent at the same time
        return web.Response(body=picture(int(rest), int(request.query.get("size", 16))), content_type="image/jpeg")

    async def status(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(status=int(rest))

    async def flaky(self, request: web.Request, rest: str) -> web.Response:
        if self.requests[f"flaky/{rest}"] <= int(rest):
            return web.Response(status=503)
        return web.Response(body=picture(), content_type="image/jpeg")

    async def hangs(self, request: web.Request, rest: str) -> web.StreamResponse:
        if rest == "midway":
            response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
            await response.prepare(request)
            await response.write(b"\xff\xd8")
        await self.ended.wait()
        return web.Response()

    async def huge(self, request: web.Request, rest: str) -> web.StreamResponse:
        """More bytes than it says, or than it may; ends when nobody reads on."""
        headers = {"Content-Type": "image/jpeg"}
        if rest == "announced":
            headers["Content-Length"] = str(10**12)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))
            self.requests["huge bytes"] += 1 << 16

    async def breaks(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"\xff\xd8 half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def circle(self, request: web.Request, rest: str) -> web.Response:
        return _redirect("/circle/b" if rest == "a" else "/circle/a")

    async def chain(self, request: web.Request, rest: str) -> web.Response:
        return _redirect(f"/chain/{int(rest) - 1}" if int(rest) else "/ok/1")

    async def to(self, request: web.Request, rest: str) -> web.Response:
        """Redirects to the query."""
        return _redirect(request.query_string)

    async def nowhere(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(status=302)

    async def html(self, request: web.Request, rest: str) -> web.Response:
        """A page; `as-image` says that it is a picture."""
        kind = "image/jpeg" if rest == "as-image" else "text/html"
        return web.Response(body=b"<html>buy this domain</html>", content_type=kind)

    async def untyped(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(body=picture(), headers={"Content-Type": "application/octet-stream"})

    async def empty(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(content_type="image/jpeg")

    async def gzip(self, request: web.Request, rest: str) -> web.Response:
        """A small answer of 50 MB."""
        body = gzip.compress(bytes(50_000_000), 9)
        return web.Response(body=body, headers={"Content-Type": "image/png", "Content-Encoding": "gzip"})

    async def bomb(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(body=bomb(), content_type="image/png")

    async def tagged(self, request: web.Request, rest: str) -> web.Response:
        return web.Response(
            body=picture(), content_type="image/jpeg", headers={"X-Robots-Tag": request.query.get("tag", "")}
        )


def _redirect(target: str) -> web.Response:
    return web.Response(status=302, headers={"Location": target})


@contextmanager
def serving() -> Iterator[Server]:
    """A server in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    servers: list[Server] = []

    async def start() -> web.AppRunner:
        server = Server()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = runner.addresses[0][1]
        servers.append(server)
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(servers[0].ended.set)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
