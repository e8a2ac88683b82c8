"""What a budget buys, from a pilot to the comparison."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.store import Workspace
from engine.studies.genbench.budget import (
    BudgetConfig,
    run_budget,
)
from engine.studies.genbench.budget_report import EVERYWHERE, PLANNED, summarise_spending, verdict
from engine.studies.genbench.shots import shot_numbers
from engine.studies.injection import InjectionSettings


def _rows(planned: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"dataset": dataset, "strategy": strategy, "seed": seed, "usd_busy": 1.0, "zero_shot": 0.2, "expected": None}
        | {"cler": score, "linear_probe": score}
        for dataset in ("d", "e")
        for seed in (0, 1)
        for strategy, score in (
            (PLANNED, planned[seed]),
            ("original alone", 0.8),
            ("retrieval alone", 0.5),
            (EVERYWHERE, 0.99),
        )
    ]


def test_the_verdict_names_the_best_single_source_and_says_when_the_plan_loses():
    (won,) = verdict(_rows((0.9, 0.85)))
    assert "beats the best single source at equal dollars (original alone): +7.50 ± 3.54 points" in won
    assert "better with 2 of 2 seeds" in won
    (lost,) = verdict(_rows((0.7, 0.85)))
    assert "does not beat" in lost
    assert "1 of 2 seeds" in lost
    assert verdict([row for row in _rows((0.9, 0.9)) if row["strategy"] == PLANNED]) == []


def test_the_summary_sums_dollars_over_data_sets_and_averages_scores():
    first = summarise_spending(_rows((0.9, 0.7)))[0]
    assert first["linear_probe"] == pytest.approx(0.8)
    assert first["linear_probe_sd"] == pytest.approx(0.1414, abs=1e-3)
    assert first["usd_busy"] == 2


def test_shots_are_counted_class_by_class():
    assert shot_numbers(np.array([0, 1, 0, 2, 1, 0])).tolist() == [0, 0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_usd": 0.0}, "budget 0.0 USD buys nothing"),
        ({"budget_usd": float("nan")}, "budget nan USD"),
        ({"budget_usd": 0.05}, "more than the budget of"),
        ({"sources": ("retrieval",)}, "add original to sources"),
        ({"pilot_originals": 1}, "give 2 or more"),
        ({"pilot_shots": 50, "max_shots": 20}, "raise max shots"),
        ({"sources": ("original", "injected")}, "raise max shots"),
        ({"sources": ("original", "injected"), "max_shots": 8, "budget_usd": 0.2}, "7 originals of 3 classes cost"),
        ({"sources": ("original", "injekted")}, "unknown source 'injekted'; did you mean injected"),
    ],
)
def test_bad_input_is_one_sentence(parts: dict[str, Any], changes: dict[str, Any], message: str):
    small = {"max_shots": 4, "pilot_shots": 2, "pilot_originals": 2}
    with pytest.raises(ValueError, match=message) as caught:
        run_budget(BudgetConfig(**(parts | small | changes)))
    assert "\n" not in str(caught.value)
    assert not Path(parts["workspace"]).exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_the_plan_buys_what_it_says_and_no_more(parts: dict[str, Any]):
    config = BudgetConfig(**parts, budget_usd=0.1, pilot_shots=2, pilot_originals=2, max_shots=4, seeds=(0, 1))
    report = run_budget(config)
    rows = [row for row in report.tables["budget_by_seed"] if row["strategy"] == PLANNED]
    # 0.1 USD pays 8 labels at 0.012 USD: the pilot's 6 and two more (compute is a millionth of that)
    assert len(rows) == 2
    assert all(0.095 < row["usd_busy"] <= 0.1 for row in rows)
    workspace = Workspace.open(config.workspace, create=False)
    # of each seed 8 for the plan and 8 for originals alone, which are the same ones wherever both buy
    assert 8 <= workspace.count("source = 'original' AND split = 'train'") <= 32
    assert workspace.count("source = 'retrieval'") >= 6
    by_class = report.tables["allocation_by_class"]
    assert sum(row["original_shots"] for row in by_class) == 8
    assert all(0 < row["expected"] <= 1 for row in by_class)
    names = {row["strategy"] for row in report.tables["budget_mean"]}
    assert names == {PLANNED, EVERYWHERE, "original alone", "retrieval alone", "generative alone"}
    spent = {row["strategy"]: row["usd_busy"] for row in report.tables["budget_mean"]}
    assert spent["original alone"] == pytest.approx(0.096, rel=0.01)
    assert spent["retrieval alone"] < 0.001
    assert "the best single source at equal dollars" in report.findings[0]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_the_plan_may_inject_and_pays_for_it(parts: dict[str, Any]):
    inject = InjectionSettings(preset="mini", originals=2, steps=2, categories_per_batch=3, allow_small=True)
    config = BudgetConfig(
        **parts,
        sources=("injected", "original"),
        inject=inject,
        budget_usd=0.2,
        pilot_shots=2,
        pilot_originals=2,
        max_shots=6,
        seeds=(0,),
    )
    report = run_budget(config)
    workspace = Workspace.open(config.workspace, create=False)
    tokens = workspace.read("tokens").to_pylist()
    assert len(tokens) == 3
    paid = {row["strategy"]: row for row in report.tables["budget_by_seed"]}
    # 0.2 USD pays 16 labels at 0.012 USD: the pilot's 12, two per class for tests and two for the tokens, and four more
    assert 0.19 < paid[PLANNED]["usd_busy"] <= 0.2
    # the pilot's tests are images that no token was learned from
    first = report.tables["allocation_by_class"]
    assert all(row["original_shots"] >= 4 for row in first)
    (used,) = {len(row["reference_ids"]) for row in tokens}
    assert used == 2
    fits = sum(row["usd_compute"] for row in tokens)
    alone = paid["injected alone"]
    assert alone["usd_busy"] > 6 * 0.012 + fits
    assert alone["usd_per_image"] == pytest.approx(alone["usd_busy"] / alone["images"])
