"""Exact mining and the training of a retriever's head on a GPU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.rows import Machine, Row, seconds


def mining(machine: Machine) -> Iterator[Row]:
    """10,000 queries in a million rows of 512 numbers on the host, never in their own class, compared with all products."""
    from engine.retriever.blocks import Block
    from engine.retriever.exact_search import top_k

    num_queries, num_rows, per_block = (200, 4_000, 1_024) if machine.tiny else (10_000, 1_000_000, 65_536)
    device = machine.device
    random = torch.Generator(device).manual_seed(0)
    centres = torch.randn(10_000, 512, device=device, generator=random)

    def draw(num: int) -> tuple[np.ndarray, np.ndarray]:
        group = torch.randint(10_000, (num,), device=device, generator=random)
        noise = torch.randn(num, 512, device=device, generator=random)
        vectors = torch.nn.functional.normalize(1 + 0.8 * centres[group] + 0.6 * noise, dim=1)
        return vectors.cpu().numpy(), (group // 10).cpu().numpy()

    queries, own = draw(num_queries)
    drawn = [(start, *draw(min(per_block, num_rows - start))) for start in range(0, num_rows, per_block)]
    blocks = [Block(np.arange(start, start + len(vectors)), vectors, classes) for start, vectors, classes in drawn]
    took = seconds(lambda: top_k(queries, blocks, query_classes=own, device=device), device)
    yield Row(f"exact mining, {num_queries:,} x {num_rows:,} x 512", took, "s", most=0.9)
    found = top_k(queries, blocks, query_classes=own, device=device)
    best = torch.full((num_queries,), -torch.inf, device=device)
    left, codes = torch.from_numpy(queries).to(device), torch.from_numpy(own).to(device)
    for block in blocks:
        products = left @ torch.from_numpy(block.vectors).to(device).T
        products[codes[:, None] == torch.from_numpy(block.classes).to(device)] = -torch.inf
        best = torch.maximum(best, products.amax(1))
    gap = (best.cpu() - torch.from_numpy(found.scores[:, 0])).abs().max().item()
    yield Row("exact mining: largest difference to all products", gap, "", most=1e-5, always=True)


def head(machine: Machine) -> Iterator[Row]:
    """A head trained by Ray Train, against the same training without Ray."""
    from benchmarks.train_retriever import make_data
    from engine.retriever.fit import TrainingConfig
    from engine.retriever.ray_training import train_heads

    on_gpu = machine.device == "cuda"
    data = make_data()
    config = TrainingConfig(epochs=2 if machine.tiny else 6, batch_size=1024, hidden=256 if machine.tiny else 1024)
    trained = train_heads(data, {"realrag": config}, Path(machine.folder / "heads"), use_gpu=on_gpu)["realrag"]
    times = [row["seconds"] for row in trained.curves[1:]]
    yield Row("head by Ray Train", len(data.text_features) / float(np.median(times)), "texts/s")
    losses = [row["loss"] for row in trained.curves]
    yield Row("head by Ray Train: last ÷ first loss", losses[-1] / losses[0], "", most=1.0, always=True)
