import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_curve, roc_auc_score

from engine.evaluation import DATASET_METRICS, score_classes, score_predictions
from engine.evaluation.class_scores import MAP_METRICS


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
    scores = np.eye(7)[predictions] + 0.1 * g.random((50, 7))
    for metric in ("accuracy", "mean_per_class"):
        assert score_classes(scores, labels, metric=metric) == score_predictions(
            predictions, labels, num_classes=7, metric=metric
        )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30))
def test_roc_auc_is_scikit_learns_with_ties_and_large_scores(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([score for score, _ in rows]) * 100.0, np.array([int(label) for _, label in rows])
    both = np.stack([-scores, scores], axis=1)
    if len(set(labels.tolist())) < 2:
        with pytest.raises(ValueError, match=f"ROC AUC needs both classes, but all {len(rows)} labels are {labels[0]}"):
            score_classes(both, labels, metric="roc_auc")
    else:
        assert score_classes(both, labels, metric="roc_auc") == pytest.approx(roc_auc_score(labels, scores))


def _reference_map_11(scores: np.ndarray, labels: np.ndarray) -> float:
    averages = []
    for column in range(labels.shape[1]):
        if labels[:, column].any():
            precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
            precision, recall = precision[:-1], recall[:-1]  # the last point, (0, 1), is no ranking's
            averages.append(np.mean([precision[recall >= tenth / 10 - 1e-9].max() for tenth in range(11)]))
    return float(np.mean(averages))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5))
def test_11_point_map_is_that_of_scikit_learns_curve(seed: int, num_rows: int, num_classes: int) -> None:
    g = np.random.default_rng(seed)
    labels = (g.random((num_rows, num_classes)) < 0.3).astype(int)
    labels[0, 0] = 1
    scores = g.integers(0, 8, (num_rows, num_classes)).astype(float)  # few values, so that many tie
    assert score_classes(scores, labels, metric="map_11_point") == pytest.approx(_reference_map_11(scores, labels))


TOOLKIT_LABELS = [0, 1, 1, 1, 0, 0, 1, 1, 1, 0]
TOOLKIT_SCORES = [0, 1, 0.5, 0.9, 0.56, 0.91, 0.09, 0.63, 0.66, 0.11]


def test_the_toolkits_11_point_map_is_that_of_its_library() -> None:
    """Inputs and result of the test of `vision_evaluation`, the library that GenBench's toolkit scores VOC with."""
    second, positive = np.array(TOOLKIT_SCORES), np.array(TOOLKIT_LABELS)
    scores, labels = np.stack([1 - second, second], axis=1), np.stack([1 - positive, positive], axis=1)
    assert score_classes(scores, labels, metric="map_11_point_toolkit") == pytest.approx(0.7406926406926406)
    # the best image of the first class is right, so only the class whose best image is wrong gains
    wrong_first = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    shown = np.array([[0, 1], [1, 0], [1, 0]])
    devkit, toolkit = (score_classes(wrong_first, shown, metric=name) for name in MAP_METRICS)
    assert toolkit - devkit == pytest.approx(((1 - 2 / 3) + (1 - 1 / 3)) / 2 / 11)


def test_11_point_map_of_a_ranking_worked_by_hand() -> None:
    # ranked: hit, miss, hit; precision 1 up to recall 0.5 (six points), 2/3 above (five points)
    scores, labels = np.array([[3.0], [2.0], [1.0]]), np.array([[1], [0], [1]])
    assert score_classes(scores, labels, metric="map_11_point") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert score_classes(scores, labels[::-1].copy(), metric="map_11_point") == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert score_classes(-scores, np.array([[1], [0], [0]]), metric="map_11_point") == pytest.approx(1 / 3)


def test_one_label_an_image_can_be_ranked_too() -> None:
    labels = np.array([0, 1, 2, 1])
    assert score_classes(np.eye(3)[labels], labels, metric="map_11_point") == 1.0


def test_a_class_that_is_never_predicted_ranks_last() -> None:
    scores = torch.tensor([[0.1, float("-inf")], [0.3, float("-inf")]])
    assert score_classes(scores, np.array([0, 1]), metric="roc_auc") == 0.5
    assert score_classes(scores, np.array([0, 1])) == 0.5


BAD = {
    "no rows": (np.empty((0, 2)), np.empty(0, int), "accuracy", "at least one row"),
    "no such metric": (np.eye(2), np.arange(2), "top5", f"give one of {', '.join(DATASET_METRICS)}"),
    "NaN": (np.array([[np.nan, 1], [0, 1]]), np.arange(2), "accuracy", "NaN in 1 of 2 rows"),
    "multilabel for a multiclass metric": (np.eye(2), np.eye(2, dtype=int), "accuracy", "multilabel and the metric"),
    "multilabel for ROC AUC": (np.eye(2), np.eye(2, dtype=int), "roc_auc", "score them by map_11_point"),
    "three classes for ROC AUC": (np.eye(3), np.arange(3), "roc_auc", "two classes and the scores have 3"),
    "one class for ROC AUC": (np.eye(2), np.ones(2, int), "roc_auc", "needs both classes, but all 2 labels are 1"),
    "labels of other classes": (np.eye(2), np.ones((2, 3), int), "map_11_point", "give 2 labels for each"),
    "labels that are no ones": (np.eye(2), np.full((2, 2), 2), "map_11_point", "other values than 0 and 1"),
    "no label at all": (np.eye(2), np.zeros((2, 2), int), "map_11_point", "no image has a label"),
}


@pytest.mark.parametrize(("scores", "labels", "metric", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_scored_is_refused_with_one_sentence(
    scores: np.ndarray, labels: np.ndarray, metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        score_classes(scores, labels, metric=metric)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="give at least one row"):
        score_predictions(np.empty(0, dtype=int), np.empty(0, dtype=int), num_classes=2)
    with pytest.raises(ValueError, match="roc_auc ranks scores and cannot be counted from predictions"):
        score_predictions(np.zeros(2, int), np.zeros(2, int), num_classes=2, metric="roc_auc")
