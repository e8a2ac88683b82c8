"""A whole server in this process, with the tiny models, on a port of loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.keys import hash_key
from engine.serving.local import LocalServer, local_server

ANN, BOB = Caller("ann", "Ann"), Caller("bob", "Bob")
KEYS = {"if-the-key-of-ann-0001": ANN, "if-the-key-of-bob-0001": BOB}
ANNS, BOBS = KEYS
HASHES = {hash_key(key): caller for key, caller in KEYS.items()}


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    parts: LocalServer
    model: str
    """Name of its generator."""

    @property
    def replica(self) -> Any:
        """The process of its generator."""
        return self.parts.replicas[self.model]


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The application on a free port of loopback; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running(folder: Path, pipeline: str, encoder: str, **settings: Any) -> Iterator[Running]:
    """A server over a new workspace in `folder`."""
    values: dict[str, Any] = {"generators": (pipeline,), "encoder": encoder, "warm_up": False, "device": "cpu"}
    config = ServeConfig(workspace=str(folder / "workspace"), **values | settings)
    with local_server(config, HASHES) as parts, listening(parts.app) as url:
        yield Running(url, parts, next(iter(parts.replicas)))
