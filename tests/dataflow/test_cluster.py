import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.dataflow import cluster


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_nobody_gets_in_without_the_token():
    import ray

    code = f"import ray; ray.init(address={ray.get_runtime_context().gcs_address!r}, logging_level='FATAL'); print(ray.cluster_resources())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    with_token = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert "CPU" in with_token.stdout, with_token.stderr
    without = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert without.returncode != 0
    assert "CPU" not in without.stdout


def test_ray_imported_before_its_token_is_refused():
    code = (
        "import ray\nfrom engine.dataflow.cluster import connected_cluster\nwith connected_cluster():\n    print('up')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "import ray after the cluster is connected" in done.stderr
    assert "up" not in done.stdout


def test_a_start_that_failed_is_tried_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import ray

    failures = [RuntimeError("timed out"), None, RuntimeError("first"), RuntimeError("second"), RuntimeError("last")]

    def init(**settings: object) -> None:
        if failure := failures.pop(0):
            raise failure

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    cluster._start_locally(str(tmp_path))
    assert len(failures) == 3
    with pytest.raises(RuntimeError, match="last"):
        cluster._start_locally(str(tmp_path))
