import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from engine.store import Workspace

SERVER = shutil.which(
    "moto_server", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "workspace")


@pytest.fixture(scope="package")
def bucket(tmp_path_factory):
    """A bucket of a local S3 server."""
    if SERVER is None:
        pytest.skip("needs moto_server on the PATH: pip install 'moto[server]'")
    if importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs s3fs: pip install 'imagefoundry[s3]'")
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
def s3_workspace(bucket, request):
    return Workspace.open(f"{bucket}/{request.node.name}")


@pytest.fixture(params=["disk", "s3"])
def any_workspace(request):
    """A workspace on a disk, and one on an object store."""
    return request.getfixturevalue({"disk": "workspace", "s3": "s3_workspace"}[request.param])
