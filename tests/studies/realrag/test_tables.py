"""RealRAG's tables, splits and paired tests on planted scores."""

import pytest

from engine.models import generator_spec
from engine.studies.realrag.tables import by_knowledge, held_out_rows, paired_tests, paper_tables, summary


def seed_row(method: str, seed: int, accuracy: float, dataset: str = "birds", **changes) -> dict:
    row = {"generator": "mini", "method": method, "seed": seed, "dataset": dataset, "group": "fine", "images": 10}
    row |= {"clip_i": 50 + accuracy, "clip_t": 20.0, "fid": 2 - accuracy, "accuracy": accuracy, "judge_i": 1.0}
    row |= {"zero_shot_accuracy": accuracy / 2}
    return row | {"_by_class": {0: accuracy, 1: accuracy / 2}} | changes


ROWS = [
    seed_row(method, seed, round(base + 0.1 * seed + extra, 3), dataset)
    for dataset, extra in (("birds", 0.0), ("cars", 0.2))
    for method, base in (("none", 0.1), ("zero", 0.2), ("normal", 0.4), ("realrag", 0.41))
    for seed in (0, 1, 2)
]


def test_the_papers_tables_are_means_over_seeds_and_averages_over_data_sets():
    tables = paper_tables(ROWS, {"mini": generator_spec("mini")})
    ours = tables["realrag_table_1"][1]
    assert (ours["type"], ours["generator"], ours["method"]) == ("U-Net", "mini", "realrag")
    assert ours["birds clip_i"] == pytest.approx(50.51)
    assert ours["birds clip_i_sd"] == pytest.approx(0.1)
    assert ours["seeds"] == 3
    assert "birds accuracy" not in ours
    assert [row["average accuracy"] for row in tables["realrag_table_2"]] == pytest.approx([0.3, 0.61, 0.31])
    assert [row["average zero_shot_accuracy"] for row in tables["realrag_table_2"]][:2] == pytest.approx([0.15, 0.305])
    assert "birds accuracy" not in tables["realrag_table_2"][0]
    assert set(tables["realrag_table_2"][0]) >= {"average accuracy", "average accuracy_sd"}
    assert [row["method"] for row in tables["realrag_table_3"]] == ["zero", "normal", "realrag", "Δ realrag - normal"]
    assert tables["realrag_table_4"][0]["cars accuracy"] == pytest.approx(0.4)
    assert [row["average accuracy"] for row in tables["realrag_table_5"]] == pytest.approx([0.4, 0.6, 0.61, 0.01])


def test_delta_is_the_mean_gain_of_a_types_generators():
    other = [row | {"generator": "sdxl", "fid": row["fid"] - (row["method"] == "realrag")} for row in ROWS]
    third = [row | {"generator": "omnigen"} for row in ROWS]
    specs = {name: generator_spec(name) for name in ("mini", "sdxl", "omnigen")}
    rows = paper_tables([*ROWS, *other, *third], specs)["realrag_table_1"]
    assert [(row["type"], row["generator"], row["method"]) for row in rows if row["method"].startswith("Δ")] == [
        ("AR", "", "Δ realrag - none"),
        ("U-Net", "mean", "Δ realrag - none"),
    ]
    assert [row["type"] for row in rows] == ["AR"] * 3 + ["U-Net"] * 5
    gain = rows[-1]
    assert gain["birds fid"] == pytest.approx((-0.31 + -1.31) / 2)
    assert gain["birds fid_sd"] == pytest.approx(0)  # every seed gains alike, although the seeds themselves differ
    assert rows[-2]["birds fid_sd"] == pytest.approx(0.1)


def test_scores_are_split_by_what_the_generator_draws_alone():
    """A gain on what it cannot draw and a loss on what it can are hidden in the mean."""
    shares = {"none": {0: 0.9, 1: 0.1}, "normal": {0: 0.8, 1: 0.4}, "realrag": {0: 0.5, 1: 0.7}}
    rows = [seed_row(method, seed, 0.5, _by_class=shares[method]) for method in shares for seed in (0, 1)]
    retrieval = [
        seed_row(method, seed, 0.5, _precision_by_class={0: 1 - share[1], 1: share[1]})
        for method, share in shares.items()
        for seed in (0, 1)
        if method != "none"
    ]
    table = {(row["classes"], row["method"]): row for row in by_knowledge(rows, retrieval)}
    for kind, normal, reflective in (("drawn alone", 0.8, 0.5), ("not drawn alone", 0.4, 0.7), ("all", 0.6, 0.6)):
        assert table[kind, "normal"]["accuracy"] == pytest.approx(normal)
        assert table[kind, "realrag"]["accuracy"] == pytest.approx(reflective)
    assert (table["drawn alone", "realrag"]["num_classes"], table["all", "realrag"]["num_classes"]) == (1, 2)
    assert table["not drawn alone", "realrag"]["precision_at_10"] == pytest.approx(0.7)
    assert table["drawn alone", "none"]["precision_at_10"] is None
    assert by_knowledge([row for row in rows if row["method"] != "none"], retrieval) == []


def test_held_out_classes_are_retrieved_and_not_trained_on():
    retrieval = [seed_row("normal", 0, 0.5, _precision_by_class={0: 1.0, 1: 0.5, 2: 0.0})]
    trained, unseen = held_out_rows(retrieval, {("birds", 2), ("cars", 0)})
    assert (trained["classes"], trained["num_classes"], trained["precision_at_10"]) == ("trained", 2, 0.75)
    assert (unseen["classes"], unseen["num_classes"], unseen["precision_at_10"]) == ("held out", 1, 0.0)


def test_a_missing_score_is_left_out_of_the_mean():
    rows = [{"method": "zero", "seed": seed, "fid": fid} for seed, fid in ((0, 1.0), (1, None), (2, 3.0))]
    (row,) = summary(rows, ("method",))
    assert (row["fid"], row["fid_sd"], row["seeds"]) == (2.0, pytest.approx(2**0.5), 3)


def test_paired_tests_pair_seeds_and_classes():
    noisy = [dict(row) for row in ROWS]
    for row, shift in zip((row for row in noisy if row["method"] == "realrag"), (0.02, 0.01, 0.03) * 2, strict=True):
        row["accuracy"] += shift
        row["_by_class"] = {number: 0.125 * number + 0.0625 for number in range(8)}
    for row in noisy:
        if row["method"] == "zero":
            row["_by_class"] = {0: 0.0, 1: 0.125}
        if row["method"] == "normal":
            row["_by_class"] = {number: 0.125 * number for number in range(8)}
    found = {
        (row["dataset"], row["score"], row["from"], row["to"]): row
        for row in paired_tests(noisy, [seed_row("zero", 0, 0.1, precision_at_1=0.5, clip_i=None)])
    }
    trained = found["birds", "accuracy", "normal", "realrag"]
    assert trained["difference"] == pytest.approx(0.03)
    assert trained["p_seeds"] == pytest.approx(0.0351, abs=1e-3)  # t = 0.03 / (0.01 / sqrt 3), 2 degrees of freedom
    assert trained["classes"] == 8
    assert trained["p_classes"] is None  # all classes gain alike
    assert found["birds", "accuracy", "zero", "realrag"]["p_classes"] == pytest.approx(0.5)  # two classes, both better
