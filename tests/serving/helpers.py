"""Helpers of the serving tests: a clock, rows of `requests`, and requests sent straight into an ASGI application."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from engine.store import Workspace


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds


def add_requests(workspace: Workspace, rows: list[tuple[str, float]]) -> None:
    """Rows of `requests` with these keys and dollars."""
    same = {"request_id": "r", "image_id": "i", "endpoint": "/v1/images/generations", "requested_at": datetime.now(UTC)}
    same |= {"is_new": True, "wait_seconds": 0.0, "device_seconds": 1.0, "end_user": ""}
    workspace.add_rows("requests", pa.Table.from_pylist([same | {"key_id": key, "usd": usd} for key, usd in rows]))


@dataclass
class Answer:
    """What an ASGI application answered."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of a header that occurs once, or None; a second one of the same name fails the test."""
        found = [value for one, value in self.headers if one.lower() == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None

    def error(self) -> dict[str, Any]:
        """The error object."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


Body = bytes | Iterable[bytes] | None
"""All of it, its chunks, or None for a body that nobody may read."""


def call(
    app: Callable[..., Any],
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: Body = b"",
    **scope: Any,
) -> Answer:
    """Sends one request; `body` None fails the test when it is read. `scope`: further keys of the ASGI scope."""
    return asyncio.run(_call(app, method, target, headers or {}, body, scope))


async def _call(
    app: Callable[..., Any], method: str, target: str, headers: Mapping[str, str], body: Body, extra: dict[str, Any]
) -> Answer:
    path, _, query = target.partition("?")
    given = {"host": "server:8000", **{name.lower(): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        **extra,
    }
    messages = _messages(body)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert body is not None, "the body was read"
        return await anext(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in rest)
    got = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
    return Answer(start["status"], got, b"".join(message.get("body", b"") for message in rest))


async def _messages(body: Body) -> AsyncIterator[dict[str, Any]]:
    for chunk in [body] if isinstance(body, bytes) else body or ():
        yield {"type": "http.request", "body": chunk, "more_body": True}
    yield {"type": "http.request", "body": b"", "more_body": False}
    yield {"type": "http.disconnect"}
