#!/usr/bin/env python3
"""A run on a cluster that Ray's autoscaler grows from one GPU node to four and shrinks again: how soon new slots are busy, idle nodes gone.

    python -m benchmarks.autoscale --recipes 1200

The nodes are Ray's fake ones (processes of this machine, a logical GPU each, autoscaler v2); the rows only wait, so they need no core. The head
has its own port and temporary folder, and is stopped by its process id, so other Rays of the machine are left alone.
"""

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import TreeClock, machine
from engine.dataflow.cluster import START_ATTEMPTS
from engine.recipe import Recipe
from engine.sources import Made
from engine.testing.makers import PaintMaker, PaintPlan, paint_embed

IDLE_SECONDS = 15.0
"""Ray's idle timeout."""
BUSY_WITHIN, BUSY_SHARE, RELEASED_WITHIN = 60.0, 0.8, 10.0
"""Goals: seconds from a node's joining to its slot's first batch, share of the slots, seconds beyond the idle timeout."""
HEAD_ID = "f" * 51 + "00000"
"""The id that Ray's fake provider gives its head."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@dataclass
class WaitingMaker(PaintMaker):
    """Notes the node, the beginning and the end of each batch."""

    notes: str = ""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """Flat pictures."""
        import ray

        begun = time.time()
        made = super().make(recipes)
        node = ray.get_runtime_context().get_node_id()
        with (Path(self.notes) / f"{os.getpid()}").open("a") as lines:
            lines.write(json.dumps([node, begun, time.time()]) + "\n")
        return made


def cluster_config(address: str, least: int, most: int) -> dict[str, Any]:
    """The autoscaler's configuration for a head at an address."""
    return {
        "cluster_name": "autoscale",
        "max_workers": most,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        # a provider of a type that Ray knows would need a file that Ray's wheel lacks
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "gcs_address": address,
            "foreground_node_launch": True,
            "worker_rpc_drain": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        # Ray's defaults for such a provider lack them
        **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{name: [] for name in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands")},
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "upscaling_speed": 1000.0,
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1},
                "node_config": {},
                "min_workers": least,
                "max_workers": most,
            },
        },
    }


@contextmanager
def autoscaling_head(folder: Path, least: int, most: int) -> Iterator[dict[str, str]]:
    """A head without GPUs, whose autoscaler keeps `least` to `most` nodes of one GPU; the environment that names it."""
    # Ray reads its token when it is imported
    names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    os.environ |= names
    import ray._private.services

    address = ray._private.services.get_node_ip_address()
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    config = cluster_config(f"{address}:{port}", least, most)
    (folder / "cluster.json").write_text(json.dumps(config))
    of_head = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    start = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    start += ["--num-gpus=0", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
    start += [f"--autoscaling-config={folder}/cluster.json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = folder / "head.log"
    for _ in range(START_ATTEMPTS):  # a busy machine may exceed the 30 s that Ray gives its head
        with said.open("ab") as log:
            head = subprocess.Popen(start, env=kept | names | of_head, stdout=log, stderr=log)
        while head.poll() is None and "Ray runtime started" not in said.read_text():
            time.sleep(0.2)
        if head.poll() is None:
            break
    else:
        raise SystemExit(f"Ray did not start: {said.read_text()[-500:]}")
    try:
        yield names | {"RAY_ADDRESS": f"{address}:{port}"}
    finally:
        end_tree(head)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started."""
    import psutil

    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(below, timeout=10)
        for one in below:
            with suppress(psutil.Error):
                one.kill()
    process.wait()


class NodeWatch:
    """Notes when GPU nodes join and leave, as the cluster's head says."""

    def __init__(self) -> None:
        self.joined: dict[str, float] = {}
        self.left: dict[str, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def num_alive(self) -> int:
        """GPU nodes that are there."""
        return len(self.joined) - len(self.left)

    def _look(self) -> None:
        import ray

        while not self._is_over.wait(0.2):
            for node in ray.nodes():
                name = node["NodeID"]
                if node["Alive"] and node["Resources"].get("GPU"):
                    self.joined.setdefault(name, time.time())
                elif not node["Alive"] and name in self.joined:
                    self.left.setdefault(name, time.time())

    def close(self) -> None:
        """Ends the watch."""
        self._is_over.set()
        self._thread.join()


def batches(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Node → beginning and end of its batches, sorted."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            node, begun, ended = json.loads(line)
            found.setdefault(node, []).append((begun, ended))
    return {node: sorted(times) for node, times in found.items()}


def wait_until(condition: Any, seconds: float) -> None:
    """Waits until a condition holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)


def measure(folder: Path, num: int, least: int, most: int) -> dict[str, Any]:
    """Fills a plan on the cluster; returns rows, and the seconds of each node."""
    from engine.costs import PriceBook
    from engine.dataflow.cluster import connected_cluster
    from engine.dataflow.run import Run
    from engine.store import Workspace

    (folder / "notes").mkdir()
    workspace = Workspace.open(folder / "workspace")
    maker = WaitingMaker(seconds_per_call=0.5, gpus_per_actor=1.0, needs_gpu=True, notes=str(folder / "notes"))
    with connected_cluster() as connection:
        watch = NodeWatch()
        wait_until(lambda: watch.num_alive >= least, 300)
        started = time.time()
        with Run(workspace, PriceBook.load(), ray=connection, commit_every_seconds=1.0, flush_seconds=2.0) as run:
            run.fill("autoscale", PaintPlan(num), maker, [paint_embed()])
        ended = time.time()
        wait_until(lambda: watch.num_alive <= least, IDLE_SECONDS + 60)
        watch.close()
    made = batches(folder / "notes")
    ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
    new = {node: joined for node, joined in watch.joined.items() if joined > started}
    return {
        "rows": len(ids),
        "distinct": len(set(ids)),
        "run_seconds": round(ended - started, 1),
        "new_nodes": len(new),
        "busy_after_joining": {
            node[-5:]: round(made[node][0][0] - joined, 1) if node in made else None for node, joined in new.items()
        },
        "idle_before_leaving": {
            node[-5:]: round(left - max(made[node][-1][1] if node in made else 0, watch.joined[node]), 1)
            for node, left in watch.left.items()
        },
        "nodes_at_the_end": watch.num_alive,
    }


def main() -> int:
    """Prints the figures; returns 0 if the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=1_200, help="two wait a quarter of a second each on a node")
    parser.add_argument("--least", type=int, default=1, help="nodes that are always there")
    parser.add_argument("--most", type=int, default=4)
    options = parser.parse_args()
    os.environ["IMAGEFOUNDRY_DEVICE"] = "cpu"  # the GPUs are logical
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as name, TreeClock() as clock:
        folder = Path(name)
        with autoscaling_head(folder, options.least, options.most) as names:
            os.environ |= names
            found = measure(folder, options.recipes, options.least, options.most)
        now = time.monotonic()
    busy = [seconds for seconds in found["busy_after_joining"].values() if seconds is not None]
    share = sum(seconds <= BUSY_WITHIN for seconds in busy) / max(1, found["new_nodes"])
    released = list(found["idle_before_leaving"].values())
    found["processor_seconds"] = round(clock.at(now), 1)
    print(json.dumps(found))
    good = (
        share >= BUSY_SHARE
        and found["new_nodes"] >= options.most - options.least
        and found["nodes_at_the_end"] == options.least
        and max(released, default=0.0) <= IDLE_SECONDS + RELEASED_WITHIN
        and found["rows"] == found["distinct"] == options.recipes
    )
    print(
        f"{share:.0%} of the new slots busy within {BUSY_WITHIN:.0f} s of joining (goal {BUSY_SHARE:.0%}); nodes left at most "
        f"{max(released, default=0.0):.0f} s after their last batch (goal {IDLE_SECONDS + RELEASED_WITHIN:.0f}): {'good' if good else 'missed'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
