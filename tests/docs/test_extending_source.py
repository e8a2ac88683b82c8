"""A source from one file and one row is planned, read, priced, plotted and shown everywhere."""

from pathlib import Path
from typing import Any

import pytest

from engine.costs import PriceBook
from engine.sources import kinds
from engine.studies.genbench.metrics import MetricsConfig, MetricStudy
from engine.studies.genbench.tradeoff import GenBench, GenBenchConfig
from tests.docs.python_blocks import public_names, python_blocks, run_block
from tests.studies.by_hand import commit_images

PAGE = "extending/source.md"


def test_the_pages_own_test_passes(monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]):
    file, test = python_blocks(PAGE)
    tests = run_block(monkeypatch, "test_keyword", test, **public_names(run_block(monkeypatch, "keyword", file)))
    tests.test_keyword_fulfils_the_contract(parts)


@pytest.fixture
def keyword(monkeypatch: pytest.MonkeyPatch) -> kinds.SourceKind:
    """The page's source, registered by its line in the tuple and nothing else."""
    kind = run_block(monkeypatch, "keyword", python_blocks(PAGE)[0]).KEYWORD
    monkeypatch.setattr(kinds, "SOURCE_KINDS", (*kinds.SOURCE_KINDS, kind))
    return kind


@pytest.mark.usefixtures("keyword")
def test_the_row_alone_lets_every_study_plan_and_read_it(parts: dict[str, Any]):
    config = GenBenchConfig(**parts, sources=("keyword", "original"), shots=(1, 2))
    study = GenBench(config)
    study.check()
    assert not Path(config.workspace).exists()
    (plan,) = study.plans["keyword"].values()
    assert (len(plan), plan[0].source) == (6, "keyword")
    assert ("keyword", "things", plan) in study.read_plans
    read = study._corpus_maker().read([plan[index] for index in range(len(plan))])
    assert [made.reason for made in read] == [""] * 6
    assert all(made.stored is not None for made in read)
    measured = MetricStudy(MetricsConfig(**parts, sources=("keyword",), shots=(2,), compare_shots=2))
    assert list(measured.variants) == ["keyword"]
    with pytest.raises(ValueError, match="unknown source 'keywords'; did you mean keyword"):
        GenBench(GenBenchConfig(**parts, sources=("keywords",))).check()


def test_the_row_alone_prices_plots_and_shows_it(parts: dict[str, Any], keyword: kinds.SourceKind):
    assert keyword.usd_per_label(PriceBook.load()) == 0.0
    study = GenBench(GenBenchConfig(**parts, sources=("keyword", "original"), shots=(1, 2)))
    report = study.build_report(commit_images(study, noise={"keyword": 1.0}))
    assert [row["source"] for row in report.tables["costs"] if row["dataset"] != "all"] == [
        "keyword",
        "original",
        "test",
    ]
    page = report.write(study.config.report).read_text()
    assert f"--keyword: {keyword.colour};" in page
    assert f"--keyword: {keyword.dark_colour};" in page
    assert '<span class="source keyword">' in page
    assert "var(--keyword)" in page  # the line of the figure
    assert "keyword search</text>" in page  # its place in the legend
