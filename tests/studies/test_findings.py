"""Findings are computed: other rows say another thing."""

from typing import Any

import pytest

from engine.studies.findings import is_clear, ranking_findings, seed_means, tradeoff_findings
from engine.studies.realrag.presentation import figures, findings, retrieval_findings


def row(source: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    fixed = {"group": "rare", "dataset": "d", "strategy": "s", "shots": 5, "zero_shot": 0.3, "usd_busy": 2.0}
    return fixed | {"source": source, "seed": seed, "linear_probe": accuracy} | more


def test_the_best_source_and_the_gap_of_generated_images_are_named_with_their_spread():
    rows = [
        *(row("original", seed, 0.7 + 0.02 * seed) for seed in (0, 1)),
        *(row("generative", seed, 0.5 + 0.04 * seed, usd_busy=0.5) for seed in (0, 1)),
        row("generative", 0, 0.9, shots=1),
    ]
    first, second = tradeoff_findings(rows)
    assert "With 5 images per class, original images give the highest linear-probe accuracy, 71.0 ± 1.4 %" in first
    assert "generative 52.0 ± 2.8 %" in first
    assert "zero-shot CLIP has 30.0 % (± is over 2 seeds)" in first
    assert (
        second
        == "Against original images, generated ones give -19.0 ± 1.4 points in rare, and cost $0.50 instead of $2.00."
    )
    swapped = [each | {"source": {"original": "generative", "generative": "original"}[each["source"]]} for each in rows]
    assert "generative images give the highest" in tradeoff_findings(swapped)[0]
    assert "+19.0 ± 1.4 points" in tradeoff_findings(swapped)[1]


def test_one_source_and_one_seed_claim_no_spread():
    first, second = tradeoff_findings([row("generative", 0, 0.5)])
    assert "50.0 %, mean over 1 data set" in first
    assert "one seed, so without a spread" in first
    assert second == "Against zero-shot CLIP, generated images give +20.0 points in rare."
    assert tradeoff_findings([]) == []


def test_a_seed_that_lacks_a_data_set_is_left_out_of_the_mean():
    rows = [row("original", 0, 0.5), row("original", 0, 0.7, dataset="e"), row("original", 1, 0.1)]
    assert seed_means(rows, "linear_probe") == {0: pytest.approx(60.0)}


def test_a_difference_is_clear_when_its_interval_leaves_out_zero():
    assert is_clear([1.0, 1.1, 0.9])
    assert is_clear([1.0, -1.0, 0.5]) is False
    assert is_clear([1.0]) is None


def test_alternatives_are_ranked_with_the_lead_of_the_best():
    rows = [
        {"dataset": "d", "seed": seed, "strategy": name, "cler": value + 0.01 * seed}
        for name, value in (("simple_template", 0.4), ("a+b", 0.5), ("c", 0.3))
        for seed in (0, 1)
    ]
    first, second = ranking_findings(rows, "strategy", "cler", "prompt strategy", "CLER")
    assert "“a + b” has the highest CLER, 50.5 ± 0.7 %" in first
    assert "+10.0 ± 0.0 points over “simple template” (clear over 2 seeds" in first
    assert second == "The lowest of 3 is “c”, -20.0 ± 0.0 points from the best."


def judged(method: str, seed: int, dataset: str, accuracy: float) -> dict[str, Any]:
    scores = {"clip_i": 50.0, "clip_t": 40.0, "fid": 0.1, "precision_at_1": accuracy, "precision_at_10": accuracy}
    return {"generator": "mini", "method": method, "seed": seed, "dataset": dataset, "accuracy": accuracy} | scores


def test_what_references_and_reflective_negatives_do_is_said_as_measured():
    values = {"none": (0.5, 0.1), "normal": (0.6, 0.5), "realrag": (0.6, 0.6)}
    whole = [
        judged(method, seed, dataset, value + 0.01 * seed)
        for method, pair in values.items()
        for dataset, value in zip(("common", "novel"), pair, strict=True)
        for seed in (0, 1, 2)
    ]
    first, second = findings(whole, [one for one in whole if one["method"] != "none"])
    assert (
        "References retrieved by RealRAG raise the judged accuracy from 31.0 ± 1.0 to 61.0 ± 1.0 % (+30.0 ± 0.0 points)"
        in first
    )
    assert "most on novel (+50.0 ± 0.0), least on common (+10.0 ± 0.0)" in first
    assert "change accuracy by +5.0 ± 0.0 points against normal training, which is clear over 3 seeds" in second
    worse = [one | {"accuracy": 1 - one["accuracy"]} for one in whole]
    assert "lower the judged accuracy" in findings(worse, [])[0]
    assert findings([one for one in whole if one["method"] != "none"], [])[0].startswith("Reflective negatives")
    assert (
        "normal training 56.0 ± 1.0 %, RealRAG 61.0 ± 1.0 %"
        in retrieval_findings([one for one in whole if one["method"] != "none"])[0]
    )


def test_realrags_figures_leave_out_what_was_not_measured():
    whole = [judged("none", 0, "common", 0.5), judged("realrag", 0, "common", 0.7)]
    found = figures(whole, [], [], [], [])
    assert len(found) == 4
    assert all('aria-label="' in svg for svg in found.values())
    curves = [
        {"generator": "mini", "method": "realrag", "seed": 0, "epoch": n, "loss": 1 / n, "precision_at_1": 0.5}
        for n in (1, 2)
    ]
    more = figures(whole, whole[1:], [], [whole[1] | {"epoch": 2}], curves)
    assert sum("Figure 7" in caption for caption in more) == 4
    assert sum("Training curves" in caption for caption in more) == 2
