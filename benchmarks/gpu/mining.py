#!/usr/bin/env python3
"""Exact nearest row of another class on a GPU, against the time that its memory and its matrix units need at least.

python -m benchmarks.gpu.mining
python -m benchmarks.gpu.mining --rows 20000 --queries 500 --device cpu   # to see that it runs

The floor is the larger of two: reading the
float32 database once from the device's memory, and the bfloat16 product of all pairs; both rates are measured here. The
search is timed with the copy from the host's memory, which is named apart, and its result is compared with float32 products.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.vectors import ClusteredVectors
from engine.retriever.blocks import Block
from engine.retriever.exact_search import top_k


def seconds(action: Callable[[], Any], device: str, repeats: int) -> float:
    """Median over the repeats, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def largest_gap(queries: np.ndarray, codes: np.ndarray, blocks: list[Any], found: Any, device: str) -> float:
    """How far a float32 product of all pairs, in pieces, finds a better row than the search did."""
    left = torch.from_numpy(queries).to(device)
    own = torch.from_numpy(codes).to(device)
    best = torch.full((len(queries),), -torch.inf, device=device)
    for block in blocks:
        for start in range(0, len(block.rows), 8_192):
            rows = torch.from_numpy(block.vectors[start : start + 8_192]).to(device)
            other = own[:, None] != torch.from_numpy(block.classes[start : start + 8_192]).to(device)
            best = torch.maximum(best, (left @ rows.T).masked_fill_(~other, -torch.inf).amax(1))
    return float((best.cpu() - torch.from_numpy(found.scores[:, 0])).abs().max())


def main() -> None:
    """Prints the rates, the floors, the time and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--k", type=int, default=1)
    parser.add_argument("--decay", type=float, default=1.0, help="see benchmarks/vectors.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = options.device
    data = ClusteredVectors(options.dimension, decay=options.decay)
    queries, codes = data.draw(options.queries, 1)
    parts = list(data.blocks(options.rows, 2))
    starts = np.cumsum([0] + [len(part[0]) for part in parts])
    blocks = [
        Block(np.arange(start, start + len(part[0])), *part) for start, part in zip(starts[:-1], parts, strict=True)
    ]

    on_gpu = device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    side = 8_192 if on_gpu else 512
    square = torch.randn(side, side, device=device, dtype=dtype)
    flop_rate = 2 * side**3 / seconds(lambda: square @ square, device, 5)
    memory = torch.ones(1 << (30 if on_gpu else 24), device=device, dtype=torch.uint8)
    byte_rate = 2 * len(memory) / seconds(lambda: memory.clone(), device, 5)
    copying = seconds(lambda: [torch.from_numpy(block.vectors).to(device) for block in blocks], device, 1)
    num_bytes = options.rows * options.dimension * 4
    floors = {
        "memory": num_bytes / byte_rate,
        f"matrix ({dtype})": 2 * options.queries * options.rows * options.dimension / flop_rate,
    }

    def search() -> Any:
        return top_k(queries, blocks, k=options.k, query_classes=codes, device=device)

    took = seconds(search, device, options.repeats)
    gap = largest_gap(queries, codes, blocks, search(), device)
    name = torch.cuda.get_device_name() if on_gpu else "cpu"
    print(
        f"{name}, torch {torch.__version__}: {options.queries:,} queries x {options.rows:,} x {options.dimension}, k = {options.k}"
    )
    print(f"{flop_rate / 1e12:.2f} TFLOP/s in {dtype}, {byte_rate / 1e9:.0f} GB/s")
    for kind, floor in floors.items():
        print(f"floor by {kind:24} {floor:8.3f} s")
    print(f"copy of the database to the device {copying:8.3f} s")
    print(f"search with the copy      {took:8.3f} s, {took / max(floors.values()):.1f} x the larger floor")
    print(f"largest difference to a float32 search: {gap:.1e}")
    if on_gpu:
        print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    assert gap < 1e-5, "the search is not exact"


if __name__ == "__main__":
    main()
