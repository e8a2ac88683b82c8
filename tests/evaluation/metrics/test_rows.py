"""Every row of METRICS, and what reads them."""

import subprocess
import sys
from dataclasses import replace

import pytest

from engine.evaluation.metrics import METRICS, Metric, find_metric, is_share, measure, proxy_metrics, tradeoff_metrics
from engine.testing.contracts import check_metric, made_up_inputs

COMPUTED = [metric for metric in METRICS if metric.compute]


@pytest.mark.parametrize("metric", COMPUTED, ids=[metric.name for metric in COMPUTED])
def test_a_computed_metric_fulfils_the_contract(metric: Metric) -> None:
    check_metric(metric)


def test_names_and_headings_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len({metric.heading for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize("metric", COMPUTED, ids=[metric.name for metric in COMPUTED])
def test_good_images_are_better_than_noise_in_the_direction_of_the_metric(metric: Metric) -> None:
    if metric.name == "zero_shot":
        return  # it sees no training image
    good, noise = (measure([metric], made_up_inputs(noise=noise)).values[metric.name] for noise in (0.1, 30.0))
    assert (good > noise) == metric.higher_is_better


def test_metrics_of_one_function_are_computed_once_and_timed_together() -> None:
    calls = []

    def compute(inputs: object) -> dict[str, float | None]:
        calls.append(1)
        return {"first": 1.0, "second": 2.0}

    first = Metric(name="first", heading="First", unit="points", higher_is_better=True, compute=compute, timing="pair")
    second = replace(first, name="second")
    found = measure([second, first], made_up_inputs())
    assert found.values == {"second": 2.0, "first": 1.0}
    assert list(found.seconds) == ["pair"]
    assert len(calls) == 1


def test_the_papers_scores_are_where_they_were() -> None:
    assert [metric.name for metric in tradeoff_metrics()] == [
        "zero_shot",
        "cler",
        "cler_ensemble",
        "linear_probe",
        "finetune",
    ]
    assert [metric.name for metric in proxy_metrics()] == [
        "cler",
        "cler_ensemble",
        "clip_score",
        "fid",
        "precision_at_5",
        "recall_at_5",
    ]
    assert [metric.name for metric in METRICS if not metric.higher_is_better] == ["fid"]


def test_a_column_of_one_data_set_is_of_its_metric() -> None:
    assert is_share("cler")
    assert is_share("average accuracy")
    assert find_metric("mini-common clip_i").heading == "CLIP-I"
    assert not is_share("mini-common clip_i")
    assert find_metric("images") is None


def test_rows_are_read_without_torch() -> None:
    code = "import sys, engine.evaluation.metrics; print([m for m in ('torch', 'polars', 'scipy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
