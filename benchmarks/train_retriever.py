#!/usr/bin/env python3
"""Steady samples per second of training a head with Ray Train ÷ a bare torch loop on as many cores (goal >= 0.95).

python -m benchmarks.train_retriever [--workers 1]

An epoch's seconds are those of its steps; the first epoch of each side is left out, and sides take turns. Checkpoints,
validation and the start are not in them: `whole run` prints what they add.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import machine, show

TEXTS, IMAGES, CLASSES, DIMENSION = 16_384, 32_768, 1_000, 512


def make_data():
    """Random features of CLIP's size."""
    from engine.retriever.data import RetrieverData, choose_validation

    random = np.random.default_rng(0)

    def unit(num: int) -> np.ndarray:
        rows = random.standard_normal((num, DIMENSION), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    image_class = np.arange(IMAGES) % CLASSES
    return RetrieverData(
        "random",
        unit(TEXTS),
        np.arange(TEXTS) % CLASSES,
        unit(IMAGES),
        image_class,
        random.integers(IMAGES, size=(TEXTS, 1)),
        choose_validation(image_class, 0.05),
    )


def bare_epoch_seconds(data, config, epochs: int) -> list[float]:
    """The plain loop of a user without this project: index, forward, cross entropy, step."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    first, last = nn.Linear(DIMENSION, config.hidden), nn.Linear(config.hidden, DIMENSION)
    mlp = nn.Sequential(first, nn.GELU(), last)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=config.learning_rate)
    texts, images = torch.from_numpy(data.text_features), torch.from_numpy(data.image_features)
    classes = torch.from_numpy(data.image_class)
    seconds = []
    for epoch in range(epochs):
        started = time.perf_counter()
        for batch in data.batches(config.batch_size, 1, 0, epoch):
            size = len(batch.texts)
            positive, negative = torch.from_numpy(batch.images), torch.from_numpy(batch.negatives[:, 0])
            x = images[torch.cat([positive, negative.clamp(min=0)])]
            vectors = F.normalize(x + mlp(x), dim=1)
            queries = texts[torch.from_numpy(batch.texts)]
            logits = queries @ vectors[:size].T / config.temperature
            alike = classes[positive][:, None] == classes[positive][None]
            logits = logits.masked_fill(alike & ~torch.eye(size, dtype=torch.bool), -torch.inf)
            hard = (queries * vectors[size:]).sum(1, keepdim=True) / config.temperature
            logits = torch.cat([logits, hard.masked_fill(negative[:, None] < 0, -torch.inf)], dim=1)
            loss = F.cross_entropy(logits, torch.arange(size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def main() -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    import torch

    from engine.dataflow.cluster import connected_cluster
    from engine.retriever.fit import TrainingConfig
    from engine.retriever.ray_training import train_heads

    torch.set_num_threads(options.workers)
    print(machine())
    data = make_data()
    config = TrainingConfig(epochs=options.epochs, batch_size=1024, hidden=1024)
    samples = TEXTS // config.batch_size * config.batch_size
    ours, bare, whole = [], [], []
    with connected_cluster(), tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            bare.append(samples / np.median(bare_epoch_seconds(data, config, options.epochs)))
            started = time.perf_counter()
            configs = {"realrag": replace(config, seed=number)}
            curves = train_heads(data, configs, Path(folder), num_workers=options.workers)["realrag"].curves
            whole.append(time.perf_counter() - started)
            ours.append(samples / np.median([row["seconds"] for row in curves[1:]]))
    show("bare loop", bare, "samples/s")
    show(f"Ray Train, {options.workers} worker(s)", ours, "samples/s")
    show("Ray Train ÷ bare loop", [a / b for a, b in zip(ours, bare, strict=True)])
    show("whole run", whole, "s")


if __name__ == "__main__":
    main()
