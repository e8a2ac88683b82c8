"""Runs on clusters of logical GPUs, one after the other in a process of their own; prints a line of JSON for each.

`IMAGEFOUNDRY_DEVICE=cpu` makes the workers that hold these GPUs compute on the processor.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.costs import PriceBook
from engine.dataflow import cluster as connection
from engine.dataflow import pool
from engine.dataflow.run import Run
from engine.store import Workspace
from engine.testing.makers import PaintEncoder, PaintMaker, PaintPlan, load_paint_encoder, paint_embed

os.environ.update({"IMAGEFOUNDRY_DEVICE": "cpu", "RAY_worker_niceness": "0", "RAY_health_check_failure_threshold": "3"})


class Scene:
    """A cluster, and a workspace on it."""

    def __init__(self, folder: Path):
        connection._prepare_environment(imported=False)
        import ray._private.utils
        from ray.cluster_utils import Cluster

        # the address of this cluster is not for other programs of this machine
        ray._private.utils.write_ray_address = lambda *arguments, **named: None
        ray._private.utils.set_sigterm_handler = lambda handler: None  # nodes are added by a thread
        Path("/tmp/ray").mkdir(exist_ok=True)
        self.folder = self.place = folder
        self._beside = ThreadPoolExecutor(1)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
        ray.init(address=self.cluster.address, logging_level="ERROR", log_to_driver=False)

    def later(self, seconds: float, action: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Does something to the cluster from a thread that lives on, since Ray's processes die with the thread that started them."""

        def act() -> None:
            time.sleep(seconds)
            action(*arguments, **named)

        self._beside.submit(act)

    def fill(self, num: int, maker: PaintMaker, num_read: int = 0, **settings: Any) -> dict[str, Any]:
        """Fills a new workspace; gives what came of it."""
        self.place = place = Path(tempfile.mkdtemp(dir=self.folder))
        (place / "touched").mkdir()
        maker.touched, maker.counted = str(place / "touched"), str(place / "counted")
        workspace = Workspace.open(place / "workspace")
        settings = {"commit_every_seconds": 0.5, "flush_seconds": 0.5} | settings
        said: list[str] = []
        error = ""
        try:
            with Run(workspace, PriceBook.load(), say=said.append, **settings) as run:
                run.fill("paint", PaintPlan(num, num_read), maker, [paint_embed()])
        except (ValueError, RuntimeError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
        touched = [path.name.split(".")[0] for path in (place / "touched").iterdir()]
        runs = workspace.runs().to_pylist()
        return {
            "rows": len(ids),
            "distinct": len(set(ids)),
            "errors": workspace.errors().num_rows,
            "touched": sorted(touched),
            "said": said,
            "error": error,
            "wasted": os.path.getsize(place / "counted") - num if (place / "counted").exists() else 0,
            "nodes": runs[-1]["nodes"] if runs else 0.0,
            "instance": runs[-1]["instance"] if runs else "",
        }


def scenarios(scene: Scene) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name → run."""

    def joins_late() -> dict[str, Any]:
        pool.WAIT_LINE_SECONDS = 1.0
        scene.later(6.0, scene.cluster.add_node, num_cpus=1, num_gpus=2)
        found = scene.fill(24, PaintMaker(needs_gpu=True, gpus_per_actor=1.0))
        pool.WAIT_LINE_SECONDS = 30.0
        return found

    def leaves() -> dict[str, Any]:
        leaving = scene.cluster.add_node(num_cpus=1, num_gpus=2)
        scene.later(20.0, scene.cluster.remove_node, leaving, allow_graceful=False)
        return scene.fill(600, PaintMaker(gpus_per_actor=1.0, seconds_per_call=0.5), num_read=200)

    def drains() -> dict[str, Any]:
        """`ray drain-node` drains one node, SIGTERM to its `ray start` another; both finish their leases."""
        told = scene.cluster.add_node(num_cpus=1, num_gpus=1)
        ray_command = str(Path(sys.executable).parent / "ray")
        start = [ray_command, "start", "--block", f"--address={scene.cluster.address}", "--num-cpus=1", "--num-gpus=1"]
        with open(os.devnull, "wb") as silence:
            other = subprocess.Popen(start, stdout=silence, stderr=silence)
        drain = [ray_command, "drain-node", f"--address={scene.cluster.address}", f"--node-id={told.node_id}"]
        drain += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=notice", "--deadline-remaining-seconds=60"]

        scene.place = scene.folder

        def notice() -> None:
            patience = time.monotonic() + 60.0
            while len(list(scene.place.glob("touched/*"))) < 4 and time.monotonic() < patience:
                time.sleep(0.2)
            subprocess.run(drain, check=True, capture_output=True)
            other.terminate()

        scene.later(0.0, notice)
        found = scene.fill(800, PaintMaker(gpus_per_actor=1.0, seconds_per_call=0.25, meet=4))
        other.wait()
        scene.cluster.remove_node(told)
        return found

    return [
        ("joins_late", joins_late),
        ("never_fits", lambda: scene.fill(8, PaintMaker(gpus_per_actor=4.0))),
        ("fractions", lambda: scene.fill(96, PaintMaker(gpus_per_actor=0.5, meet=4))),
        ("whole", lambda: scene.fill(96, PaintMaker(gpus_per_actor=1.0, meet=2))),
        ("both", lambda: scene.fill(96, PaintMaker(gpus_per_actor=2.0))),
        ("reads", lambda: scene.fill(96, PaintMaker(gpus_per_actor=1.0, bad_seeds=(3,), poison_seeds=(40,)), 64)),
        ("sick", lambda: scene.fill(400, PaintMaker(gpus_per_actor=1.0, sick_device="1", seconds_per_call=0.2))),
        ("all_sick", lambda: scene.fill(40, PaintMaker(gpus_per_actor=2.0, sick_device="0,1"))),
        ("embed", lambda: embeds(scene)),
        ("drains", drains),
        ("leaves", leaves),
    ]


def embeds(scene: Scene) -> dict[str, Any]:
    """A second encoder through Ray Data: read on processors, embedded by workers that hold GPUs."""
    workspace = Workspace.open(scene.folder / "embedded")
    num = 600
    other: Any = PaintEncoder("other")
    with Run(workspace, PriceBook.load()) as run:
        run.fill("paint", PaintPlan(num), PaintMaker(rows_per_call=64), [paint_embed()])
        embedded = run.embed(other, PaintPlan(num), load_encoder=load_paint_encoder)
    table = workspace.scan(["embedding_paint_encoder", "embedding_other"]).read_all()
    same = table["embedding_other"].to_pylist() == table["embedding_paint_encoder"].to_pylist()
    return {"embedded": embedded, "same": same}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        wanted = sys.argv[1:]
        try:
            for name, scenario in scenarios(scene):
                if not wanted or name in wanted:
                    started = time.monotonic()
                    found = scenario()
                    print(json.dumps({"name": name, "seconds": time.monotonic() - started} | found), flush=True)
        finally:
            import ray

            ray.shutdown()
            scene.cluster.shutdown()


if __name__ == "__main__":
    main()
