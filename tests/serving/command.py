"""`imagefoundry serve` as a process of its own, with the tiny models."""

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).parents[2]


@dataclass
class Server:
    """A running command."""

    process: "subprocess.Popen[str]"
    url: str
    key: str
    workspace: str
    lines: list[str]

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, timeout=120, **more)

    def pids(self, part: str) -> list[int]:
        """Processes of one part of this server: they carry its key in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if part in (folder / "cmdline").read_text() and self.key in (folder / "environ").read_text():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


@contextmanager
def started(
    folder: Path, pipeline: str, encoder: str, *options: str, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The command with `options`, over a new workspace in `folder`; `variables` are added to its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    key = f"if-{secrets.token_hex(16)}"
    workspace = str(folder / "workspace")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [
        *(sys.executable, "-m", "engine", "serve", "--workspace", workspace, "--port", str(port)),
        *("--generators", pipeline, "--encoder", encoder, "--no-warm-up", *options),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment | {"IMAGEFOUNDRY_API_KEY": key} | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    found = Server(process, f"http://127.0.0.1:{port}", key, workspace, [])
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found.lines.append(line)
            if line.startswith("Stop with"):
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        assert ready.wait(400), "".join(found.lines)
        assert process.poll() is None, "".join(found.lines)
        yield found
    finally:
        process.terminate()
        process.wait(120)
