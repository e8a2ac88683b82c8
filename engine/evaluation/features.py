"""Checks and normalisation that all metrics share."""

from typing import TypeAlias

import numpy as np
import torch

Array: TypeAlias = np.ndarray | torch.Tensor
Labelled: TypeAlias = tuple[Array, Array]
"""Features `[N, D]` and their labels: `[N]` class indices, or `[N, C]` of 0 and 1 where an image has several."""


def as_features(features: Array, name: str = "features", ndim: int = 2) -> torch.Tensor:
    """Features as a float32 tensor `[N, D]` (or `[C, T, D]`, for `ndim=3`).

    Raises ValueError for no rows, another number of dimensions, and NaN or infinite values.
    """
    if isinstance(features, np.ndarray):
        features = np.require(features, requirements="W")  # torch warns about read-only memory, such as Arrow's
    tensor = torch.as_tensor(features).detach().to(torch.float32)
    if tensor.ndim != ndim:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; give {ndim} dimensions, the last one the embedding's"
        )
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(tensor.shape)}); give at least one row")
    if not all(torch.isfinite(end) for end in torch.aminmax(tensor)):  # one pass over the data; NaN makes both ends NaN
        num_bad = int((~torch.isfinite(tensor)).reshape(len(tensor), -1).any(dim=1).sum())
        raise ValueError(f"{name} holds NaN or infinite values in {num_bad} of {len(tensor)} rows; drop those rows")
    return tensor


def as_labels(labels: Array, num_rows: int, num_classes: int, name: str = "labels") -> torch.Tensor:
    """Labels as an int64 tensor `[N]` with values in `range(num_classes)`. Raises ValueError for others."""
    tensor = torch.as_tensor(labels).detach()
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name} is of type {tensor.dtype}; give whole numbers")
    if tensor.shape != (num_rows,):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give one label for each of the {num_rows} rows")
    tensor = tensor.to(torch.int64)
    if num_rows and not 0 <= int(tensor.min()) <= int(tensor.max()) < num_classes:
        raise ValueError(
            f"{name} runs from {int(tensor.min())} to {int(tensor.max())}; give values from 0 to {num_classes - 1}"
        )
    return tensor


def as_targets(labels: Array, num_rows: int, num_classes: int, name: str = "labels") -> torch.Tensor:
    """Labels `[N]` as `as_labels` gives them, or multilabel `[N, C]` int64 of 0 and 1. Raises ValueError for others."""
    tensor = torch.as_tensor(labels).detach()
    if tensor.ndim != 2:
        return as_labels(tensor, num_rows, num_classes, name)
    if tensor.shape != (num_rows, num_classes):
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; give {num_classes} labels for each of the {num_rows} rows"
        )
    if not ((tensor == 0) | (tensor == 1)).all():
        raise ValueError(f"{name} holds other values than 0 and 1; give a 1 for each class that an image shows")
    return tensor.to(torch.int64)


def same_dimension(features: torch.Tensor, others: torch.Tensor, name: str, other_name: str) -> None:
    """Raises ValueError unless both have embeddings of one dimension."""
    if features.shape[-1] != others.shape[-1]:
        raise ValueError(
            f"{name} has dimension {features.shape[-1]} and {other_name} has {others.shape[-1]}; "
            "embed both with the same encoder"
        )


def unit_norm(features: torch.Tensor) -> torch.Tensor:
    """Rows divided by their length, `[..., D]`; a zero row stays zero."""
    return torch.nn.functional.normalize(features, dim=-1)
