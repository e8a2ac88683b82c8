"""Hub and s3 go through the same reader as a folder: a small Hub and a local S3 server stand in for them."""

import contextlib
import http.server
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from engine.catalog.index import index_split
from engine.testing.data import write_dataset

COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = """
import hashlib, json, sys
from engine.catalog import load_dataset
from engine.catalog.corpus import read_images
dataset = load_dataset(sys.argv[1])
index = dataset.index("train")
images = read_images(dataset.location, index.keys.tolist())
print(json.dumps({
    "names": dataset.class_names,
    "templates": dataset.templates,
    "fingerprint": index.fingerprint,
    "labels": index.labels(dataset.class_names, "").tolist(),
    "images": [hashlib.md5(image).hexdigest() for image in images],
}))
"""


def _expected(folder: Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's API as reading a data set's files takes."""

    root: ClassVar[Path]

    def log_message(self, *_: object) -> None:
        pass

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": "1" * 40, "size": path.stat().st_size}

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = "/api/datasets/clip-benchmark/wds_things"
        if path.startswith(f"{api}/tree/"):
            folder = self.root / path.removeprefix(f"{api}/tree/").partition("/")[2]
            if not folder.is_dir():
                self._send(b"{}", 404, X_Error_Code="EntryNotFound")
                return
            found = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
            self._json([self._entry(each) for each in sorted(found)])
        elif path.startswith(api):
            self._json({"id": "clip-benchmark/wds_things", "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        elif path.startswith("/datasets/clip-benchmark/wds_things/resolve/"):
            file = self.root / path.split("/resolve/")[1].partition("/")[2]
            if not file.is_file():
                self._send(b"", 404, X_Error_Code="EntryNotFound")
                return
            data, wanted = file.read_bytes(), self.headers.get("Range")
            etag = {"ETag": f'"{file.name}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            if wanted:
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                part = data[int(start) : int(end) + 1 if end else None]
                self._send(part, 206, Content_Range=f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}", **etag)
            else:
                self._send(data, **etag)
        else:
            self._send(b"", 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        wanted = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = json.loads(wanted)["paths"] if wanted.startswith("{") else parse_qs(wanted)["paths"]
        names = [names] if isinstance(names, str) else names
        self._json([self._entry(self.root / name) for name in names if (self.root / name).exists()])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = write_dataset(tmp_path / "hub", ("a", "b"), train=2, test=1)
    handler = type("Hub", (_Hub,), {"root": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_hub_is_read_like_a_folder(hub: tuple[Path, str], tmp_path: Path):
    folder, address = hub
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, "hf://datasets/clip-benchmark/wds_things"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == _expected(folder)


SERVER = shutil.which(
    "moto_server", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
)


@pytest.mark.skipif(SERVER is None, reason="needs moto_server on the PATH: pip install 'moto[server]'")
@pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="needs s3fs: pip install 'imagefoundry[s3]'")
def test_s3_is_read_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import s3fs

    from engine.catalog import load_dataset
    from engine.catalog.corpus import read_images

    folder = write_dataset(tmp_path / "wds_things", ("a", "b"), train=2, test=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([str(SERVER), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            bucket = s3fs.S3FileSystem(skip_instance_cache=True)
            bucket.mkdir("catalog")
            bucket.put(str(folder), "catalog/wds_things", recursive=True)
            dataset = load_dataset("s3://catalog/wds_things")
            index, on_disk = dataset.index("train"), index_split(str(folder), "train")
            assert (dataset.name, index.fingerprint) == ("things", on_disk.fingerprint)
            assert (index.keys == on_disk.keys).all()
            keys = on_disk.keys.tolist()
            assert read_images(dataset.location, keys) == read_images(str(folder), keys)
        finally:
            server.kill()
            server.wait()
