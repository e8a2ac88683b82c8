"""Time of metrics on a device, by the clock: GenBench's Figure 5 is of three runs on a GPU after a dry run."""

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from engine.evaluation.metrics.metric import Compute, Metric, MetricInputs

REPEATS = 3
"""Timed runs of each metric, after the one that warms up."""


def device_seconds(metrics: Sequence[Metric], inputs: MetricInputs, device: str) -> dict[str, float]:
    """`Metric.timed_as` → mean seconds of three runs on features that are on the device already, after a dry run.

    Raises ValueError as the metrics do.
    """
    import torch

    on_device = _moved(inputs, device)
    seconds: dict[str, float] = {}
    done: set[Compute] = set()
    for metric in metrics:
        assert metric.compute is not None, f"{metric.name} is not computed from arrays"
        if metric.compute in done:
            continue
        done.add(metric.compute)
        metric.compute(on_device)
        _wait(torch, device)
        started = time.perf_counter()
        for _ in range(REPEATS):
            metric.compute(on_device)
        _wait(torch, device)
        seconds[metric.timed_as] = (time.perf_counter() - started) / REPEATS
    return seconds


def _wait(torch: Any, device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _moved(inputs: MetricInputs, device: str) -> MetricInputs:
    """The inputs with every array as a tensor on the device."""
    import torch

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(move, value))
        return (
            torch.from_numpy(np.require(value, requirements="W")).to(device) if isinstance(value, np.ndarray) else value
        )

    return replace(inputs, **{each.name: move(getattr(inputs, each.name)) for each in fields(inputs)})
