#!/usr/bin/env python3
"""Images per second from JPEGs of 500x375 to committed embeddings on the CPU ÷ two peers, in pairs.

    python -m benchmarks.embed_throughput                                       # the miniature encoder
    python -m benchmarks.embed_throughput --model ViT-B-32 --images 2000        # random weights of open_clip's architecture
    python -m benchmarks.embed_throughput --peer-python /tmp/peer/bin/python    # clip-retrieval beside it

`--road embed`: the JPEGs are rows of the table, and `Run.embed` adds their embeddings. `--road fill`: the JPEGs are files, and
`Run.fill` reads, hashes and embeds them and writes their rows.

Peers: a bare loop (one process per core that reads, decodes, resizes and embeds by the engine's own functions and drops the
result), and clip-retrieval's `clip_inference` over the same files. Every speed leaves the first quarter out; the engine's ends
when its rows are committed. Each ratio is printed twice: by wall time, and by processor seconds per image of all processes (Ray's
too), which other programs on the machine disturb less.

clip-retrieval needs a Python of its own, and an old setuptools, since OpenAI's clip imports `pkg_resources`:
    python3.11 -m venv /tmp/peer && /tmp/peer/bin/pip install clip-retrieval==2.45.0 "setuptools<70"
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Speed, TreeClock, machine, show
from benchmarks.embed_peers import MODELS, accumulated, bare_speed, peer_speed, write_model, write_photos
from engine.cpus import usable_cpus
from engine.models import load_encoder

ROADS = ("embed", "fill")
GOALS = {"bare loop": 0.95, "clip-retrieval": 1.3}


@dataclass(frozen=True)
class NotingLoader:
    """Loads an encoder that notes the time of each batch in a file of its process; picklable."""

    folder: str

    def __call__(self, source: str, **options: Any) -> Any:
        """The encoder."""
        encoder = load_encoder(source, **options)
        encode = encoder.encode_images

        def noting(images: Any) -> Any:
            found = encode(images)
            with (Path(self.folder) / str(os.getpid())).open("a") as file:
                file.write(f"{time.monotonic()} {len(images)}\n")
            return found

        encoder.encode_images = noting  # type: ignore[method-assign]
        return encoder

    def arrivals(self) -> list[tuple[float, int]]:
        """(Time, images so far) over all processes."""
        lines = [line.split() for path in Path(self.folder).iterdir() for line in path.read_text().splitlines()]
        return accumulated((float(moment), int(count)) for moment, count in lines)


def photo_plan(photos: Path) -> Any:
    """A plan that reads each file once."""
    from engine.catalog import load_dataset
    from engine.sources import OriginalPlan

    return OriginalPlan(load_dataset(str(photos)), None, split="train")


def fill(workspace: Any, photos: Path, stages: Any) -> None:
    """Makes rows of the files, with the columns of the stages."""
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.sources import CorpusMaker

    plan = photo_plan(photos)
    with Run(workspace, PriceBook.load()) as run:
        run.fill("read", plan, CorpusMaker({plan.dataset.name: str(photos)}), stages)


def engine_speed(road: str, model: Path, photos: Path, workspace: Any) -> Speed:
    """The engine's speed, until all rows are committed."""
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.recipe import embedding_column

    encoder = load_encoder(str(model))
    with tempfile.TemporaryDirectory() as notes, TreeClock() as clock:
        loader = NotingLoader(notes)
        if road == "fill":
            fill(workspace, photos, [Embed.of(encoder, loader)])
        else:
            with Run(workspace, PriceBook.load()) as run:
                run.embed(encoder, photo_plan(photos), load_encoder=loader)
        end = time.monotonic()
        arrivals = loader.arrivals()
    rows = workspace.count(f"{embedding_column(encoder.name)} IS NOT NULL")
    assert rows == arrivals[-1][1] == workspace.count()
    return Speed.of([*arrivals[:-1], (end, rows)], clock)


def main() -> None:
    """Measures in pairs, and prints each."""
    from engine.dataflow.cluster import connected_cluster
    from engine.store import Workspace

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--road", choices=ROADS, default=ROADS[0])
    parser.add_argument("--pairs", type=int, default=3, help="pairs of measurements")
    parser.add_argument("--photos", type=Path, help="folder for the JPEGs, kept for the next call (2 GB for 20,000)")
    parser.add_argument(
        "--peer-python", type=Path, help="Python that has clip-retrieval; without it that peer is left out"
    )
    parser.add_argument(
        "--peer-workers", type=int, default=usable_cpus(), help="clip-retrieval's num_prepro_workers (its default is 4)"
    )
    options = parser.parse_args()
    if options.peer_python is not None and not options.peer_python.exists():
        raise SystemExit(f"there is no {options.peer_python}; the help says how to make a Python with clip-retrieval")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the peers are not nice to other programs either
    print(machine(), flush=True)
    speeds: dict[str, list[Speed]] = {"bare loop": [], "engine": [], "clip-retrieval": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = (options.photos or folder / "photos") / str(options.images)
        write_photos(photos, options.images)
        models = [write_model(options.model, folder / f"model-{pair}") for pair in range(options.pairs)]
        if (
            options.road == "embed"
        ):  # a folder's name is part of its embeddings' name, so each pair fills a column of its own
            table = Workspace.open(folder / "table")
            with connected_cluster():
                fill(table, photos, [])
        for pair, model in enumerate(models):
            if options.road == "fill":
                table = Workspace.open(folder / f"table-{pair}")
            speeds["bare loop"].append(bare_speed(model, photos))
            with connected_cluster():
                speeds["engine"].append(engine_speed(options.road, model, photos, table))
            note = ""
            if options.peer_python is not None:
                output = folder / f"peer-{pair}"
                speed, cosine = peer_speed(options.peer_python, model, photos, output, options.peer_workers)
                speeds["clip-retrieval"].append(speed)
                note = f"; least cosine of clip-retrieval's embeddings with ours {cosine:.4f}"
            parts = [
                f"{name} {found[-1].per_second:.1f} images/s, {found[-1].cpu_seconds * 1000:.2f} ms of processor per image"
                for name, found in speeds.items()
                if found
            ]
            print(f"pair {pair + 1}: {'; '.join(parts)}{note}; {machine()}", flush=True)
    report(speeds)


def report(speeds: Mapping[str, Sequence[Speed]]) -> None:
    """Prints medians, and the engine's ratios to its peers by pair."""
    for name, found in speeds.items():
        if found:
            show(name, [one.per_second for one in found], "images/s")
            show(f"{name}, processor", [one.cpu_seconds * 1000 for one in found], "ms per image")
    for name, goal in GOALS.items():
        pairs = list(zip(speeds["engine"], speeds[name], strict=False))
        if pairs:
            show(f"engine ÷ {name}", [ours.per_second / one.per_second for ours, one in pairs], f"(goal: >= {goal})")
            show("the same by processor seconds", [one.cpu_seconds / ours.cpu_seconds for ours, one in pairs])


if __name__ == "__main__":
    main()
