import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from engine.evaluation import score_predictions


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scikit_learn(seed: int) -> None:
    g = np.random.default_rng(seed)
    labels = g.integers(7, size=50) ** 2 % 7  # unbalanced, and some classes have no row
    predictions = np.where(g.random(50) < 0.5, labels, g.integers(7, size=50))
    assert score_predictions(predictions, labels, num_classes=7) == pytest.approx(accuracy_score(labels, predictions))
    assert score_predictions(predictions, labels, num_classes=7, metric="mean_per_class") == pytest.approx(
        balanced_accuracy_score(labels, predictions)
    )


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="give at least one row"):
        score_predictions(np.empty(0, dtype=int), np.empty(0, dtype=int), num_classes=2)
