import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.evaluation import correlation_rows


def _frame(seed: int = 0, num_rows: int = 18) -> pl.DataFrame:
    g = np.random.default_rng(seed)
    probe = g.random(num_rows)
    return pl.DataFrame(
        {
            "group": [("common", "fine", "rare")[number % 3] for number in range(num_rows)],
            "linear_probe": probe,
            "cler": probe + 0.1 * g.normal(size=num_rows),
            "fid": g.normal(size=num_rows),
        }
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_correlations_are_scipys(seed: int) -> None:
    frame = _frame(seed).with_columns(pl.col("fid").round(1))  # with ties
    for row in correlation_rows(frame, ["cler", "fid"], num_resamples=50):
        part = frame if row["group"] == "all" else frame.filter(pl.col("group") == row["group"])
        x, y = part[row["score"]].to_numpy(), part["linear_probe"].to_numpy()
        assert row["n"] == len(part)
        assert row["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert row["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)


def test_every_score_has_a_row_over_all_and_within_each_group() -> None:
    rows = correlation_rows(_frame(), ["cler", "fid"])
    assert [(row["score"], row["group"]) for row in rows] == [
        (score, group) for score in ("cler", "fid") for group in ("all", "common", "fine", "rare")
    ]
    for row in rows:
        for name in ("pearson", "spearman"):
            assert -1 <= row[f"{name}_low"] <= row[f"{name}_high"] <= 1
    cler, fid = rows[0], rows[4]
    assert cler["pearson_low"] > 0.8
    assert fid["pearson_low"] < 0 < fid["pearson_high"]
    assert correlation_rows(_frame(), ["cler", "fid"]) == rows
    assert [row["group"] for row in correlation_rows(_frame(), ["cler"], group=None)] == ["all"]


def test_an_interval_holds_the_true_correlation_as_often_as_it_says() -> None:
    held = 0
    for seed in range(60):
        x, noise = np.random.default_rng(seed).normal(size=(2, 40))
        frame = pl.DataFrame({"x": x, "y": 0.6 * x + 0.8 * noise})
        (row,) = correlation_rows(frame, ["x"], against="y", group=None, confidence=0.9, num_resamples=300)
        held += row["pearson_low"] <= 0.6 <= row["pearson_high"]
    assert 46 <= held <= 60  # 54 are expected; 46 would be three standard deviations off


def test_a_trend_across_groups_need_not_hold_within_them() -> None:
    frame = pl.DataFrame(
        {
            "group": ["a"] * 4 + ["b"] * 4,
            "cler": [1, 2, 3, 4, 11, 12, 13, 14],
            "linear_probe": [4, 3, 2, 1, 14, 13, 12, 11],
        }
    )
    over_all, first, second = (row["pearson"] for row in correlation_rows(frame, ["cler"], num_resamples=20))
    assert over_all > 0.9
    assert (first, second) == pytest.approx((-1, -1))


def test_what_has_no_correlation_has_none() -> None:
    frame = pl.DataFrame({"group": ["a", "a", "b", "b"], "cler": [1.0, 1.0, 1.0, None], "linear_probe": [1.0, 2, 3, 4]})
    rows = correlation_rows(frame, ["cler"])
    assert [(row["n"], row["pearson"], row["spearman_high"]) for row in rows] == [
        (3, None, None),
        (2, None, None),
        (1, None, None),
    ]


def test_columns_that_cannot_be_correlated_are_refused() -> None:
    with pytest.raises(ValueError, match="no column 'mts'; it has group, linear_probe"):
        correlation_rows(_frame(), ["mts"])
    with pytest.raises(ValueError, match="column 'cler' holds NaN or infinite values"):
        correlation_rows(_frame().with_columns(cler=pl.lit(float("nan"))), ["cler"])
