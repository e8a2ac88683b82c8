#!/usr/bin/env python3
"""Ready-made images embedded and committed by this engine, Daft, Ray Data and clip-retrieval; then each is killed half way and started again.

    python -m benchmarks.resume_peers --peer-python /tmp/peer/bin/python --daft-python /tmp/daft/bin/python --images 100000

All have the same files, the same tiny CLIP and as many workers. Each runs without a kill, in turns, `--pairs` times: images per second from the
first quarter to the end, and processor seconds per image. Then each once more: when half of the images are embedded, the whole process tree is killed, and the same
command is started again. Counted are the embedded images that the second start embeds again, the seconds until it embeds its first
new one and until it ends, and, at the end, rows that are missing or there twice.

The peers' Pythons: python3.11 -m venv /tmp/peer && /tmp/peer/bin/pip install clip-retrieval==2.45.0 "setuptools<70"
and, since Daft crashes beside the old pyarrow of that: python3.11 -m venv /tmp/daft && /tmp/daft/bin/pip install daft==0.7.14 open_clip_torch
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Speed, TreeClock, machine
from benchmarks.embed_peers import MODELS, accumulated, photos_in, write_model

SIDE, QUALITY = 64, 90
ENGINES = ("ours", "daft", "ray", "clip-retrieval")


@dataclass(frozen=True)
class Job:
    """One engine's run over the images."""

    engine: str
    photos: Path
    model: Path
    output: Path
    num: int
    workers: int
    python: Path | None
    """Python of the engine; None for this one."""

    @property
    def notes(self) -> Path:
        """Folder in which each process notes what it has embedded."""
        return self.output / "notes"

    def command(self) -> list[str]:
        """The command, which is the same for a second start."""
        here = Path(__file__)
        if self.engine == "ours":
            places = {"photos": self.photos, "model": self.model, "output": self.output}
            return [
                sys.executable,
                "-m",
                "benchmarks.resume_peers",
                "ours",
                *options(places),
                f"--workers={self.workers}",
            ]
        if self.engine == "clip-retrieval":
            places = {"images": self.photos, "model": self.model, "output": self.output / "rows", "notes": self.notes}
            command = [str(self.python), str(here.with_name("clip_retrieval_peer.py")), *options(places)]
            return [*command, f"--workers={self.workers}"]
        python = str(self.python or sys.executable)
        places = {"index": index_of(self.photos), "model": self.model, "output": self.output, "notes": self.notes}
        command = [python, str(here.with_name("dataflow_peer.py")), self.engine, *options(places)]
        return [*command, f"--num={self.num}", f"--workers={self.workers}"]

    def arrivals(self) -> list[tuple[float, int]]:
        """(Time, images) of each batch of all processes so far."""
        found = []
        for path in self.notes.glob("*"):
            if not path.suffix or path.suffix == ".txt":
                for line in path.read_text().splitlines():
                    moment, count = line.split()
                    found.append((float(moment), int(count)))
        return sorted(found)

    def keys(self) -> Iterator[str]:
        """Key of each row that a reader finds."""
        import pyarrow.parquet as pq

        if self.engine == "ours":
            from engine.store import Workspace

            yield from Workspace.open(self.output / "workspace").scan(["key"]).read_all()["key"].to_pylist()
            return
        column = "image_path" if self.engine == "clip-retrieval" else "path"
        for path in (self.output / "rows").rglob("*.parquet"):
            with suppress(OSError, ValueError):  # half a file
                yield from pq.read_table(path, columns=[column])[column].to_pylist()


def options(places: dict[str, Path]) -> list[str]:
    """Paths as options of a command line."""
    return [f"--{name}={place}" for name, place in places.items()]


def index_of(photos: Path) -> Path:
    """A Parquet file of the ids and paths of all images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = photos.parent / f"{photos.name}.parquet"
    if not index.exists():
        paths = [str(path) for path in photos_in(photos)]
        pq.write_table(pa.table({"id": list(range(len(paths))), "path": paths}), index)
    return index


def start(job: Job) -> "subprocess.Popen[bytes]":
    """Starts the job's command in a session of its own."""
    job.notes.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if job.engine in ("daft", "clip-retrieval"):
        kept.pop("PYTHONPATH", None)
    kept |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "DAFT_ANALYTICS_ENABLED": "0"}
    with (job.output / "log.txt").open("ab") as log:
        return subprocess.Popen(job.command(), env=kept, stdout=log, stderr=log, start_new_session=True)


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process and all below it at once, as when the machine goes."""
    import psutil

    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    for one in below:
        with suppress(psutil.Error):
            one.kill()
    process.wait()


def finish(process: "subprocess.Popen[bytes]", job: Job) -> None:
    """Waits for the end of a job."""
    if process.wait():
        raise SystemExit(f"{job.engine} failed; the end of its log:\n{(job.output / 'log.txt').read_text()[-2000:]}")


def run_through(job: Job) -> dict[str, Any]:
    """The speed without a kill."""
    started = time.monotonic()
    with TreeClock() as clock:
        finish(start(job), job)
        ended = time.monotonic()
    arrivals = accumulated(job.arrivals())
    speed = Speed.of([*arrivals[:-1], (ended, arrivals[-1][1])], clock)
    keys = Counter(job.keys())
    assert len(keys) == keys.total() == job.num, f"{job.engine} made {keys.total()} rows of {job.num} images"
    whole = {"seconds": ended - started, "processor_seconds": clock.at(ended)}
    return asdict(speed) | whole


def kill_and_resume(job: Job) -> dict[str, Any]:
    """What a kill at half way costs."""
    process = start(job)
    while sum(count for _, count in job.arrivals()) < job.num // 2:
        if process.poll() is not None:
            raise SystemExit(f"{job.engine} ended before it was killed; see {job.output / 'log.txt'}")
        time.sleep(0.1)
    kill_tree(process)
    embedded = sum(count for _, count in job.arrivals())
    visible = len(set(job.keys()))
    resumed = time.monotonic()
    finish(start(job), job)
    ended = time.monotonic()
    arrivals = job.arrivals()
    later = [moment for moment, _ in arrivals if moment > resumed]
    keys = Counter(job.keys())
    return {
        "embedded_at_the_kill": embedded,
        "visible_at_the_kill": visible,
        "seconds_to_first_new": min(later) - resumed if later else None,
        "seconds_to_the_end": ended - resumed,
        "embedded_twice": sum(count for _, count in arrivals) - job.num,
        "missing": job.num - len(keys),
        "doubled": keys.total() - len(keys),
    }


def ours(photos: Path, model: Path, output: Path, workers: int) -> None:
    """This engine's run: reads, hashes and embeds the files, and commits their rows."""
    from benchmarks.embed_throughput import NotingLoader, photo_plan
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.models import load_encoder
    from engine.sources import CorpusMaker
    from engine.store import Workspace

    plan = photo_plan(photos)
    stage = Embed.of(load_encoder(str(model)), NotingLoader(str(output / "notes")))
    with Run(Workspace.open(output / "workspace"), PriceBook.load(), max_workers=workers) as run:
        run.fill("read", plan, CorpusMaker({plan.dataset.name: str(photos)}), [stage])


def write_small_photos(folder: Path, num: int) -> None:
    """Writes JPEGs of 64 x 64, each of its own seed; those that are there are kept."""
    import numpy as np
    from PIL import Image

    for number in range(num):
        path = folder / "train" / ("day", "night")[number % 2] / f"{number:06}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, "JPEG", quality=QUALITY)


def main() -> None:
    """Prints a line of JSON per engine."""
    if sys.argv[1:2] == ["ours"]:
        inner = argparse.ArgumentParser()
        for name in ("photos", "model", "output"):
            inner.add_argument(f"--{name}", type=Path)
        inner.add_argument("--workers", type=int)
        ours(**vars(inner.parse_args(sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer-python", type=Path, help="Python with clip-retrieval; without it that is left out")
    parser.add_argument("--daft-python", type=Path, help="the same for Daft")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--photos", type=Path, help="folder for the images, kept for the next call")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each engine without a kill")
    parser.add_argument("--no-kills", action="store_true", help="leave out the kills")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        photos = (chosen.photos or folder / "photos") / str(chosen.images)
        write_small_photos(photos, chosen.images)
        model = write_model(MODELS[0], folder / "model")
        pythons = {"daft": chosen.daft_python, "clip-retrieval": chosen.peer_python}
        engines = [engine for engine in chosen.engines if pythons.get(engine, True)]

        def of(engine: str, name: str) -> Job:
            place = folder / engine / name
            return Job(engine, photos, model, place, chosen.images, chosen.workers, pythons.get(engine))

        runs = [(engine, f"whole-{pair}") for pair in range(chosen.pairs) for engine in engines]
        runs += [] if chosen.no_kills else [(engine, "killed") for engine in engines]
        for engine, name in runs:
            job, found = of(engine, name), {"engine": engine, "images": chosen.images, "machine": machine()}
            try:
                found |= kill_and_resume(job) if name == "killed" else run_through(job)
                shutil.rmtree(job.output)
            except SystemExit as error:  # it names the log, which stays
                found["failed"] = str(error)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
