"""The diversity of a set of images: the Vendi score of their embeddings."""

import torch

from engine.evaluation.features import Array, as_features, unit_norm


def vendi_score(features: Array) -> float:
    """Effective number of different images, from 1 (all alike) to N, of features `[N, D]`.

    The exponential of the entropy of the eigenvalues of the cosine kernel divided by N (Friedman and Dieng, The Vendi Score,
    2023, Eq. 2), computed from the `[D, D]` matrix that has the same eigenvalues other than 0. Raises ValueError for
    non-finite features.
    """
    rows = unit_norm(as_features(features)).double()
    values = torch.linalg.eigvalsh(rows.T @ rows / len(rows))
    values = values[values > 1e-12]
    return float(torch.exp(-(values * values.log()).sum()))
