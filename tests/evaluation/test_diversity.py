import numpy as np
import pytest

from engine.evaluation import vendi_score


def test_equal_images_count_once_and_orthogonal_ones_each():
    assert vendi_score(np.tile([[1.0, 2.0, 3.0]], (7, 1))) == pytest.approx(1.0, abs=1e-6)
    assert vendi_score(np.eye(5) * 3) == pytest.approx(5.0, rel=1e-6)


def test_the_score_is_that_of_the_kernels_eigenvalues():
    rows = np.random.default_rng(0).normal(size=(30, 6))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 30)
    values = values[values > 1e-12]
    assert vendi_score(rows) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-5)
