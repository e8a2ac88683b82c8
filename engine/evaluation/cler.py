"""CLER: how well the class centres of training images recognise test images, without training."""

from dataclasses import dataclass

import torch

from engine.evaluation.class_scores import DatasetMetric, ranked_by, score_classes
from engine.evaluation.features import Array, as_features, as_targets, same_dimension, unit_norm
from engine.evaluation.zero_shot import class_embeddings


@dataclass(frozen=True, slots=True)
class ClerScore:
    """CLER and its ensemble with the text, each a share from 0 to 1."""

    cler: float
    """Share of test images whose nearest class centre is their own class's (GenBench Eq. 1)."""
    cler_ensemble: float | None
    """The same with `(centre + text) / 2` in place of the centre; None if no text was given."""
    num_empty_classes: int
    """Classes without an image; they are never predicted, so all their test images count as wrong."""


def class_centers(features: Array, labels: Array, *, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `[C, D] float32, unit norm` of features `[M, D]` grouped by label, and which classes have none `[C] bool`.

    The centre of an empty class is the zero vector. An image with several labels (`[M, C]` of 0 and 1) counts for each of
    its classes.
    """
    rows = as_features(features)
    groups = as_targets(labels, len(rows), num_classes).to(rows.device)
    # float64, so that the centre does not depend on the order of the rows
    if groups.ndim == 2:
        sums, counts = groups.double().T @ unit_norm(rows).double(), groups.sum(dim=0)
    else:
        sums = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64, device=rows.device)
        sums.index_add_(0, groups, unit_norm(rows).double())
        counts = torch.bincount(groups, minlength=num_classes)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    return unit_norm(means).float(), counts == 0


def cler_score(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    num_classes: int,
    text_features: Array | None = None,
    metric: DatasetMetric = "accuracy",
    normalise_ensemble: bool = False,
) -> ClerScore:
    """CLER of images `[M, D]` on test images `[N, D]`; text features `[C, T, D]` add the ensemble.

    GenBench Alg. 1 and Eq. 1. Where the paper leaves something open:

    - Alg. 1 writes `preds_CLIP = mm(text_emb, text_features.T)`, with `text_features` never defined; section 2.4 says
      the ensemble is `E · (centre + text) / 2`, so the CLIP scores are `mm(test_emb, text_emb.T)`. The authors' code
      (evaluation_utils.py of github.com/Luodian/GenBench) brings the sum to unit norm, which the paper does not say: a class
      whose centre and text disagree then scores higher. `normalise_ensemble` does so too.
    - It does not say whether features are normalised before the mean, or the mean after. Here both are, as CLIP
      does for its templates: an image counts by its direction, and a scattered class is not predicted less often.
    - Alg. 1 returns a count where Eq. 1 is a mean; this is the mean (or the mean over classes, by `metric`).

    A class without images has the zero vector for its centre and scores -inf in both predictions. Raises ValueError
    for an empty set, non-finite features, labels out of range or shapes that do not fit together.
    """
    test = as_features(test_features, "test_features")
    length = test.norm(dim=1, keepdim=True).clamp(min=1e-12)
    truth = as_targets(test_labels, len(test), num_classes, "test_labels")
    train = as_features(train_features, "train_features")
    groups = as_targets(train_labels, len(train), num_classes, "train_labels")
    same_dimension(train, test, "train_features", "test_features")
    centers, empty = (part.to(test.device) for part in class_centers(train, groups, num_classes=num_classes))

    def score_of(classifier: torch.Tensor) -> float:
        cosines = (test @ classifier.T).div_(length)  # dividing cosines touches fewer numbers than dividing features
        if empty.any():
            cosines[:, empty] = float("-inf")
        return score_classes(ranked_by(cosines, metric, scale=1), truth, metric=metric)

    ensemble = None
    if text_features is not None:
        text = class_embeddings(text_features).to(test.device)
        same_dimension(text, test, "text_features", "test_features")
        if len(text) != num_classes:
            raise ValueError(
                f"text_features has {len(text)} classes and num_classes is {num_classes}; give one per class"
            )
        mean = (centers + text) / 2
        ensemble = score_of(unit_norm(mean) if normalise_ensemble else mean)
    return ClerScore(cler=score_of(centers), cler_ensemble=ensemble, num_empty_classes=int(empty.sum()))
