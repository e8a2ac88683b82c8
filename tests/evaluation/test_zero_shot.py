import numpy as np
import pytest

from engine.evaluation import class_embeddings, predict, zero_shot_score


def test_templates_are_normalised_before_and_after_their_mean() -> None:
    # a long and a short text of one class: unit vectors (1, 0) and (0, 1), so the class points at 45 degrees
    text = np.array([[[100.0, 0.0], [0.0, 0.1]]], dtype=np.float32)
    np.testing.assert_allclose(class_embeddings(text).numpy(), [[np.sqrt(0.5), np.sqrt(0.5)]], atol=1e-6)


def test_the_nearest_class_by_cosine_is_predicted() -> None:
    features = np.array([[10.0, 1.0], [0.1, 0.2]], dtype=np.float32)
    assert predict(features, np.array([[1.0, 0.0], [0.0, 50.0]], dtype=np.float32)).tolist() == [0, 1]


def test_zero_shot_score_by_hand() -> None:
    text = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    features = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.2], [0.9, 1.0]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])  # the third is wrong
    assert zero_shot_score(features, labels, text) == 0.75
    assert zero_shot_score(features, labels, text, metric="mean_per_class") == pytest.approx((1 + 2 / 3) / 2)


def test_text_of_one_template_must_still_have_three_dimensions() -> None:
    with pytest.raises(ValueError, match="text_features has shape"):
        class_embeddings(np.ones((3, 4), dtype=np.float32))
