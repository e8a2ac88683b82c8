"""An S3 server on loopback, and a proxy before it that delays, cuts and lies, for `benchmarks.chaos`."""

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "foundry"
FAULTS = ("delay", "cut", "cut after", "refuse", "fail after", "halve")
"""What happens to a request: it waits; its connection is cut before or after it took effect; it is refused with a 503; it takes effect
and the answer is a 500; half of the answer comes."""
SHARE = 0.04
"""Share of the requests that a fault hits."""
LONGEST_DELAY = 1.0
SKEW_SECONDS = 3600.0
"""The clock that the store shows for the lock is fast by this much, so that a live lock looks dead."""
OF_CONNECTION = ("content-length", "transfer-encoding", "connection", "expect", "keep-alive")


class FaultyProxy:
    """Forwards HTTP to a server; a context manager. Counts the faults in `faults`."""

    def __init__(self, port: int, share: float = SHARE, seed: int = 0) -> None:
        self.faults: Counter[str] = Counter()
        self._draw, self._mutex, self._share = random.Random(seed), threading.Lock(), share
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def forward(self) -> None:
                """Answers one request, well or badly."""
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = proxy._next_fault()
                if fault == "delay":
                    time.sleep(proxy._draw.uniform(0.05, LONGEST_DELAY))
                if fault == "cut":
                    self._cut()
                    return
                if fault == "refuse":
                    self._answer(503, {}, b"")
                    return
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                with suppress(OSError):
                    kept = {name: value for name, value in self.headers.items() if name.lower() not in OF_CONNECTION}
                    server.request(self.command, self.path, body, kept)
                    reply = server.getresponse()
                    content = reply.read()
                    if fault == "cut after":
                        self._cut()
                    elif fault == "fail after":
                        self._answer(500, {}, b"")
                    else:
                        headers = dict(reply.getheaders())
                        if self.path.partition("?")[0].endswith("/.lock"):
                            headers["Date"] = formatdate(time.time() + SKEW_SECONDS, usegmt=True)
                        half = fault == "halve" and self.command == "GET" and len(content) > 1
                        self._answer(reply.status, headers, content, len(content) // (1 + half))
                        if half:
                            self._cut()
                server.close()

            def _answer(
                self, status: int, headers: dict[str, str], content: bytes, num_sent: int | None = None
            ) -> None:
                length = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in OF_CONNECTION:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[:num_sent])

            def _cut(self) -> None:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def _next_fault(self) -> str:
        with self._mutex:
            if self._draw.random() >= self._share:
                return ""
            fault = self._draw.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def settings(port: int) -> dict[str, str]:
    """The environment of a client of the S3 at a port."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    regions = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1"}
    return keys | regions | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true"}


def moto() -> str | None:
    """The program of the S3 server, if it is installed."""
    return shutil.which("moto_server", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """An S3 server with the bucket; its port."""
    program = moto()
    assert program is not None, "install moto[server]"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (folder / "s3.log").open("w") as log:
        server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        made = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        made.request("PUT", f"/{BUCKET}")
        assert made.getresponse().status == 200
        yield port
    finally:
        server.kill()
        server.wait()
