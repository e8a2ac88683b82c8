"""The same workspace on an object store: a local S3 server stands in for the bucket."""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest

from engine.store import Workspace, lock

from .helpers import add, error_rows, image_rows, recipe_ids

SERVER = shutil.which(
    "moto_server", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
)
pytestmark = [
    pytest.mark.skipif(SERVER is None, reason="needs moto_server on the PATH: pip install 'moto[server]'"),
    pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="needs s3fs: pip install 'imagefoundry[s3]'"),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    server = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_REGION", "us-east-1")
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir("foundry")
            yield "s3://foundry"
        finally:
            server.kill()
            server.wait()
            log.close()


@pytest.fixture
def workspace(bucket, request):
    return Workspace.open(f"{bucket}/{request.node.name}")


def test_a_workspace_lives_in_a_bucket(workspace):
    with pytest.raises(ValueError, match="there is no workspace at"):
        Workspace.open(workspace.uri + "-none", create=False)
    workspace.ensure_encoder("a", 4)
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    add(workspace, image_rows(range(10), a=vectors[:10]))
    add(workspace, image_rows(range(10, 20)))
    add(workspace, error_rows(range(2)), "errors")
    assert workspace.ids_without("a", recipe_ids(range(20))) == recipe_ids(range(10, 20))
    workspace.fill_embeddings("a", recipe_ids(range(10, 20)), vectors[10:])
    with workspace.lock("run"):
        workspace.build_indices()
        workspace.compact(keep_versions_for=timedelta(0))
    again = Workspace.open(workspace.uri, create=False)
    assert (again.count(), len(again.done_ids()), again.errors().num_rows) == (20, 20, 2)
    assert again.search(vectors[13], "a", k=1)["seed"].to_pylist() == [13]
    assert again.fetch(recipe_ids([7, 99, 3]), ["image"])["image"].to_pylist() == [b"image 7", b"image 3"]


def test_a_second_run_is_refused_while_the_first_lives(workspace, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.5)
    with workspace.lock("first"):
        time.sleep(2)
        with pytest.raises(ValueError, match=r"run first .* is writing"), Workspace.open(workspace.uri).lock("second"):
            pass
    with Workspace.open(workspace.uri).lock("second"):
        pass


def test_the_lock_of_a_dead_run_goes_stale_and_the_run_notices_should_it_live(workspace, monkeypatch):
    import s3fs

    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.5)
    dead = {"run_id": "dead", "pid": 1, "host": "gone", "started": "long ago", "token": "t", "beat": time.time() - 61}
    path = f"{workspace.uri}/{lock.LOCK_NAME}"
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(path, json.dumps(dead).encode())
    with workspace.lock("second"):
        s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(path, json.dumps(dead).encode())
        time.sleep(1)
        with pytest.raises(RuntimeError, match="another run took over the lock"):
            add(workspace, image_rows(range(3)))
    assert workspace.count() == 0


def test_a_bucket_that_is_not_there_is_refused_in_one_sentence(bucket):
    with pytest.raises(ValueError, match=r"cannot (open|write) a? ?workspace"):
        Workspace.open("s3://no-such-bucket/workspace")
