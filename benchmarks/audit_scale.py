#!/usr/bin/env python3
"""Time, processor seconds and memory of an audit of a large workspace, part by part.

    python -m benchmarks.audit_scale build --folder /some/disk --rows 1000000
    python -m benchmarks.audit_scale run --folder /some/disk --images 2000

`build` writes rows as a run would, with pictures of `--side` pixels, of which one in a hundred is a test image, and embeddings of 512 numbers. The pictures
repeat after 4,000, which no part of an audit gains from. `run` needs no other argument, so it measures an older checkout too (PYTHONPATH).
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CHUNK, DIMENSION, PICTURES = 50_000, 512, 4_000


def build(folder: Path, rows: int, side: int) -> None:
    """Writes the workspace."""
    from engine.images import ImageFormat
    from engine.recipe import IMAGE_SCHEMA, embedding_column
    from engine.store import Committer, Workspace, write_fragments
    from engine.store.vectors import from_matrix

    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (PICTURES, 8, 8, 3), np.uint8)
    encoder = ImageFormat("webp", 90)
    pictures = [encoder.encode(np.kron(one, np.ones((side // 8, side // 8, 1), np.uint8))) for one in blocks]
    workspace = Workspace.open(folder / "workspace")
    workspace.ensure_encoder("e", DIMENSION)
    for start in range(0, rows, CHUNK):
        number = np.arange(start, min(start + CHUNK, rows))
        count = len(number)
        ids = [random.bytes(16).hex() for _ in number]
        values: dict[str, Any] = {
            "id": ids,
            "source": ["original" if one % 100 == 0 else "generative" for one in number],
            "dataset": ["d"] * count,
            "class_index": number % 1_000,
            "class_name": [f"class {one % 1_000}" for one in number],
            "split": ["test" if one % 100 == 0 else "train" for one in number],
            "image": [pictures[one % PICTURES] for one in number],
            "content_hash": [random.bytes(16).hex() for _ in number],
            "run_id": ["run-1"] * count,
        }
        fillers = {pa.string(): "x", pa.int32(): side, pa.int64(): 1, pa.float64(): 1e-6}
        table = pa.table(
            [pa.array(values.get(one.name, [fillers.get(one.type)] * count), one.type) for one in IMAGE_SCHEMA],
            schema=IMAGE_SCHEMA,
        )
        vectors = random.normal(size=(count, DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = table.append_column(embedding_column("e"), from_matrix(vectors))
        with Committer(workspace) as committer:
            committer.add(write_fragments(workspace.uri, "images", table))
        print(f"{number[-1] + 1:,} rows", flush=True)


def run(folder: Path, images: int, pixels: bool) -> None:
    """Audits, and prints a line per part and one for all."""
    from engine.export import audit as module
    from engine.store import Workspace
    from engine.store.snapshot import Snapshot

    for name in ("_equal_pixels", "audit_copies", "_vendi", "_usd"):
        setattr(module, name, timed(name.lstrip("_"), getattr(module, name)))
    if not pixels:
        module.audit_copies = lambda *_: None
    snapshot = Snapshot(Workspace.open(folder / "workspace", create=False))
    contents = timed("count", module.count_contents)(snapshot)
    module.count_contents = lambda _: contents
    found = timed("audit", module.audit)(module.AuditConfig(str(folder / "workspace"), images=images))
    print("\n".join(found.lines()))


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a line about each call."""

    def call(*values: Any, **more: Any) -> Any:
        wall, busy = time.perf_counter(), time.process_time()
        result = function(*values, **more)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        print(f"{name:13} {wall:7.1f} s, {busy:7.1f} processor seconds, peak memory so far {peak:.2f} GiB", flush=True)
        return result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "run"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--no-pixels", action="store_true", help="leave out the search for copies")
    options = parser.parse_args()
    if options.what == "build":
        build(options.folder, options.rows, options.side)
    else:
        run(options.folder, options.images, not options.no_pixels)


if __name__ == "__main__":
    main()
