"""Corpus of captions: seconds and memory of the search for all classes, and ingest compared with the bare text encoder.

`python -m benchmarks.corpus search --rows 1000000` writes made-up unit vectors (clusters, falling spectrum, mean cosine well above
0) into a workspace and searches them from there, as a study does; `… index` adds IVF_RQ and single queries;
`python -m benchmarks.corpus ingest` builds a corpus of made-up captions of three lengths of table.
"""

import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.common import TreeClock, machine

CLUSTERS = 5_000
BLOCK = 65_536
ENCODER = "synthetic"
SINGLE_QUERIES = 20
"""Queries of an index, one by one."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    what: Annotated[Literal["write", "search", "index", "ingest"], tyro.conf.Positional]
    rows: int = 1_000_000
    """Captions; for `ingest`, rows of the longer table (the shorter has a third)."""
    classes: int = 2_548
    """Queries; GenBench has 2,548 classes."""
    dimension: int = 128
    k: int = 500
    """Captions per class."""
    encoder: str = "mini-clip"
    """Text encoder of `ingest`."""
    place: str = ""
    """Folder that keeps the workspace, so that `write` and `search` can be commands of their own; a temporary one by default."""


def vectors(rng: np.random.Generator, centers: np.ndarray, num: int) -> np.ndarray:
    """`[N, D]` float32, unit norm."""
    scale = (0.3 / np.arange(1, centers.shape[1] + 1) ** 0.5).astype(np.float32)
    found = rng.standard_normal((num, centers.shape[1]), np.float32)
    found *= scale
    found += centers[rng.integers(0, len(centers), num)]
    found /= np.sqrt(np.einsum("nd,nd->n", found, found))[:, None]
    return found


def centers_of(dimension: int) -> np.ndarray:
    """`[5000, D]` float32."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((CLUSTERS, dimension)) / np.arange(1, dimension + 1) ** 0.5 + 0.15
    return centers.astype(np.float32)


def write(config: Config, place: str) -> "object":
    """A workspace with a corpus of made-up captions."""
    from engine.store import Committer, Workspace, write_fragments
    from engine.store.captions import ensure_caption_encoder
    from engine.store.vectors import from_matrix

    workspace = Workspace.open(place)
    column = ensure_caption_encoder(workspace, ENCODER, config.dimension)
    rng, centers = np.random.default_rng(1), centers_of(config.dimension)
    with Committer(workspace) as committer:
        for start in range(0, config.rows, BLOCK):
            num = min(BLOCK, config.rows - start)
            rows = np.arange(start, start + num)
            table = {
                "corpus": pa.array(["made up"] * num),
                "part": pa.array(np.full(num, start // BLOCK)),
                "row": pa.array(rows),
                "key": pa.array(rows),
                "url": pa.array([f"https://images.example.org/pictures/{row}.jpg" for row in rows]),
                "caption": pa.array([f"a made up caption of about sixty letters, number {row:09}" for row in rows]),
                column: from_matrix(vectors(rng, centers, num).astype(np.float16)),
            }
            committer.add(write_fragments(workspace.uri, "captions", pa.table(table)))
        account = {"corpus": "made up", "encoder": ENCODER, "part": 0, "file": "", "start": 0, "rows": config.rows}
        account |= {"used": config.rows, "left": "{}", "settings": "{}", "run_id": ""}
        committer.add(write_fragments(workspace.uri, "caption_parts", pa.Table.from_pylist([account])))
    return workspace


def search(config: Config, place: str) -> None:
    """Exact search of all classes from disk."""
    from engine.retriever.class_captions import local_search
    from engine.store import Workspace

    workspace = Workspace.open(place)
    if not workspace.dataset("captions").count_rows():
        write(config, place)
    if config.what == "write":
        return
    size = sum(file.stat().st_size for file in Path(place, "captions.lance").rglob("*") if file.is_file())
    queries = vectors(np.random.default_rng(2), centers_of(config.dimension), config.classes)
    if config.what == "index":
        queries = queries[:SINGLE_QUERIES]
    found = local_search(workspace, "made up", ENCODER)  # type: ignore[arg-type]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, used = time.perf_counter(), time.process_time()
    best = found(queries, config.k)
    wall, used = time.perf_counter() - wall, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (best.rows >= 0).all()
    print(
        f"search: {len(queries):,} classes x {config.rows:,} captions x {config.dimension}, top {config.k}: {wall:.1f} s wall, "
        f"{used:.1f} processor seconds; peak memory {peak / 1e6:.2f} GB ({before / 1e6:.2f} before); "
        f"{size / config.rows:.0f} bytes per row on disk"
    )
    if config.what == "index":
        index(config, workspace, queries, best.rows)


def index(config: Config, workspace: "object", queries: np.ndarray, exact: np.ndarray) -> None:
    """IVF_RQ: build, recall and time of single queries."""
    from engine.store.captions import build_caption_index, captions_at, nearest_captions

    wall, used = time.perf_counter(), time.process_time()
    build_caption_index(workspace, ENCODER)  # type: ignore[arg-type]
    print(f"IVF_RQ build: {time.perf_counter() - wall:.1f} s wall, {time.process_time() - used:.1f} processor seconds")
    for share in (0.125, 0.25, 0.5, 1.0):
        recalls, times = [], []
        for query, rows in zip(queries, exact, strict=True):
            started = time.process_time()
            found = nearest_captions(workspace, "made up", ENCODER, query, k=config.k, share=share)  # type: ignore[arg-type]
            times.append(time.process_time() - started)
            wanted = set(captions_at(workspace, rows, ["url"])["url"].to_pylist())  # type: ignore[arg-type]
            recalls.append(len(wanted & set(found["url"].to_pylist())) / len(wanted))
        print(
            f"  {share:.3f} of the partitions: recall {np.mean(recalls):.3f}, {np.median(times) * 1e3:.0f} processor ms per query"
        )


def ingest(config: Config, place: str) -> None:
    """Processor seconds per row of ingest, without its start, and of the bare encoder on the same captions."""
    import torch

    from engine.models import load_encoder
    from engine.studies.corpus import CorpusConfig, build_corpus

    words = [
        f"{one}{two}"
        for one in ["ka", "lo", "mi", "ru", "te", "sa", "no", "vi"]
        for two in ["ra", "ne", "ti", "lo", "mu", "sa"]
    ]
    rng = np.random.default_rng(0)
    used = {}
    for name, rows in (("short", config.rows // 3), ("long", config.rows)):
        folder = Path(place, name)
        folder.mkdir()
        texts = [" ".join(rng.choice(words, 8)) for _ in range(rows)]
        table = {"URL": [f"https://a.example.org/{row}.jpg" for row in range(rows)], "TEXT": texts}
        pq.write_table(pa.table(table), folder / "0.parquet", row_group_size=8_192)
        with TreeClock() as clock:
            started = time.monotonic()
            report = build_corpus(
                CorpusConfig(tables=str(folder), workspace=f"{place}/workspace-{name}", encoder=config.encoder)
            )
            wall = time.monotonic() - started
        used[name] = clock.samples[-1][1] - clock.samples[0][1]
        print(
            f"ingest of {rows:,} rows: {wall:.1f} s wall with the start of Ray, {used[name]:.1f} processor seconds",
            flush=True,
        )
        assert report.rows == rows
    torch.set_num_threads(1)
    encoder = load_encoder(config.encoder)
    encoder.encode_texts(texts[:256])
    started = time.process_time()
    num = config.rows // 3
    encoder.encode_texts(texts[:num])
    bare = (time.process_time() - started) / num
    each = (used["long"] - used["short"]) / (config.rows - config.rows // 3)
    print(
        f"bare encoder: {1 / bare:,.0f} rows per processor second; ingest {1 / each:,.0f}; ingest ÷ bare {bare / each:.2f}"
    )


def main(config: Config) -> None:
    """Measures one thing."""
    print(machine())
    action = ingest if config.what == "ingest" else search
    if config.place:
        action(config, config.place)
        return
    with tempfile.TemporaryDirectory() as place:
        action(config, place)


if __name__ == "__main__":
    main(tyro.cli(Config))
