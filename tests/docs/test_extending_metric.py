"""A metric from one file and one row is measured, shown, compared and marked everywhere."""

from dataclasses import replace
from typing import Any

import pytest

from engine.evaluation import metrics
from engine.studies.genbench.metric_report import MetricFindings, metric_report
from engine.studies.genbench.metrics import measure_point
from engine.studies.genbench.tradeoff import GenBench, GenBenchConfig
from engine.testing.contracts import made_up_inputs
from tests.docs.python_blocks import public_names, python_blocks, run_block
from tests.studies.by_hand import commit_images

PAGE = "extending/metric.md"


def test_the_pages_own_tests_pass(monkeypatch: pytest.MonkeyPatch):
    file, test = python_blocks(PAGE)
    tests = run_block(monkeypatch, "test_spread", test, **public_names(run_block(monkeypatch, "spread", file)))
    tests.test_spread_fulfils_the_contract()
    tests.test_noisier_images_are_more_spread()


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> metrics.Metric:
    """The page's metric, registered by its line in the tuple and nothing else."""
    metric = run_block(monkeypatch, "spread", python_blocks(PAGE)[0]).SPREAD
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, metric))
    return metric


@pytest.mark.usefixtures("spread")
def test_the_row_alone_puts_it_into_the_trade_off_and_onto_the_page(parts: dict[str, Any]):
    study = GenBench(GenBenchConfig(**parts, sources=("generative", "original"), shots=(1, 4), seeds=(0, 1)))
    report = study.build_report(commit_images(study, noise={"generative": 1.0}))
    rows = {(row["source"], row["shots"], row["seed"]): row for row in report.tables["tradeoff"]}
    assert rows["generative", 4, 0]["spread"] > rows["original", 4, 0]["spread"] > 0
    page = report.write(study.config.report).read_text()
    assert '<th scope="col" class="number">Spread</th>' in page
    mean = sum(rows["generative", 4, seed]["spread"] for seed in (0, 1)) / 2
    assert f'<td class="number best">{mean:,.2f} ± ' in page  # the best of the sources, with its spread over seeds


@pytest.mark.usefixtures("spread")
def test_the_row_alone_puts_it_into_the_metric_study():
    points = []
    for number, noise in enumerate((0.1, 0.4, 0.8, 1.6, 3.0)):
        where = {"dataset": "d", "group": "g", "source": "generative", "strategy": "", "shots": 5, "seed": number}
        points.append(where | measure_point(replace(made_up_inputs(noise=noise), seed=number)))
    report = metric_report(MetricFindings(5, points))
    four = {(row["score"], row["group"]): row for row in report.tables["figure_4"]}
    assert four["spread", "all"]["n"] == 5
    assert four["spread", "all"]["pearson"] < 0
    assert "spread" in {row["metric"] for row in report.tables["figure_5"]}
    (caption,) = (name for name in report.figures if "Figure 4: Spread" in name)
    assert "Spread</text>" in report.figures[caption]


def test_a_lower_value_is_marked_where_lower_is_better(
    monkeypatch: pytest.MonkeyPatch, spread: metrics.Metric, parts: Any
):
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS[:-1], replace(spread, higher_is_better=False)))
    study = GenBench(GenBenchConfig(**parts, sources=("generative", "original"), shots=(4,)))
    report = study.build_report(commit_images(study, noise={"generative": 1.0}))
    value = next(row["spread"] for row in report.tables["tradeoff"] if row["source"] == "original")
    assert f'<td class="number best">{value:,.2f}' in report.write(study.config.report).read_text()
