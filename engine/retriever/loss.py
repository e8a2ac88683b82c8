"""The self-reflective contrastive loss (RealRAG Eq. 7 and 8)."""

import torch
from torch.nn import functional as F


def reflective_loss(
    queries: torch.Tensor,
    images: torch.Tensor,
    classes: torch.Tensor,
    reflective: torch.Tensor | None = None,
    present: torch.Tensor | None = None,
    *,
    temperature: float,
    temperature_on_reflective: bool = True,
    first: int = 0,
) -> torch.Tensor:
    """Mean of Eq. 8 over the queries: contrasts each text's own image with all images that it should be far from.

    Images of the query's own class are neither its positive nor its negatives, so a batch may repeat a class.

    Args:
        queries: `[B, D]` unit norm, texts; query `b` belongs to image `first + b`.
        images: `[N, D]` unit norm, N >= B: the images of the whole batch, those of other workers included.
        classes: `[N]` classes of the images.
        reflective: `[B, K, D]` unit norm, each query's own reflective negatives; None for the normal loss.
        present: `[B, K]` bool, the negatives that exist; None for all.
        temperature: Tau of Eq. 7.
        temperature_on_reflective: divide their similarity by tau like all others. Eq. 7 does not: at tau 0.07 their
            part is then at most e beside terms of up to e^14, next to nothing.
    """
    own = torch.arange(first, first + len(queries), device=queries.device)
    similarity = queries @ images.T / temperature
    alike = classes[own].unsqueeze(1) == classes.unsqueeze(0)
    alike[torch.arange(len(queries), device=queries.device), own] = False
    terms = [similarity.masked_fill(alike, float("-inf"))]
    if reflective is not None:
        to_reflective = torch.einsum("bd,bkd->bk", queries, reflective)
        if temperature_on_reflective:
            to_reflective = to_reflective / temperature
        terms.append(to_reflective if present is None else to_reflective.masked_fill(~present, float("-inf")))
    return F.cross_entropy(torch.cat(terms, dim=1), own)
