"""Table 2 and the choice for each class."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.prompts import load_sentences
from engine.store import Workspace
from engine.studies import scoring, study
from engine.studies.genbench import prompts
from engine.studies.genbench.metrics import MetricsConfig, run_metrics
from engine.studies.genbench.prompts import (
    BY_CLASS,
    HINDSIGHT,
    SINGLE,
    PromptsConfig,
    PromptStudy,
    best_by_dataset,
    choice_by_class,
    gains,
    join,
    mix,
    run_prompts,
    table_2,
)
from engine.studies.image_set import Images
from engine.testing.models import save_t5


def _images(name: str, classes: list[int]) -> Images:
    labels = np.array(classes)
    features = np.arange(len(labels), dtype=np.float32)[:, None]
    return Images([f"{name}{row}" for row in range(len(labels))], np.arange(len(labels)), labels, labels, features)


def test_each_class_takes_the_images_of_its_choice():
    mixed = mix([_images("a", [0, 1, 2, 0, 1, 2]), _images("b", [0, 1, 2, 0, 1])], np.array([0, 1, 0]))
    assert mixed.ids == ["a0", "a2", "a3", "a5", "b1", "b4"]
    assert mixed.classes.tolist() == [0, 2, 0, 2, 1, 1]
    assert join([_images("a", [0]), _images("b", [])]).ids == ["a0"]


def _rows() -> list[dict[str, Any]]:
    return [
        {"dataset": dataset, "source": "generative", "strategy": strategy, "seed": seed, "cler": cler + seed / 10}
        for dataset, strategy, cler in (("d", "x", 0.5), ("d", "y", 0.6), ("e", "x", 0.7), ("e", "y", 0.2))
        for seed in (0, 1)
    ]


def test_table_2_has_a_row_a_strategy_with_its_spread_and_marks_the_best():
    first, second = table_2(_rows())
    assert first == {"strategy": "x", "d": "55.0 ± 7.1", "e": "75.0 ± 7.1 *", "mean": "65.0 ± 7.1 *"}
    assert second == {"strategy": "y", "d": "65.0 ± 7.1 *", "e": "25.0 ± 7.1", "mean": "45.0 ± 7.1"}
    assert table_2([row | {"cler": None} for row in _rows()]) == []


def test_figure_2_takes_the_best_strategy_of_each_data_set():
    rows = [
        row | {"group": "fine", "shots": 20, "zero_shot": 0.5, "linear_probe": row["cler"] - 0.05}
        for row in [*_rows(), *(row | {"source": "retrieval", "strategy": "", "cler": 0.99} for row in _rows())]
    ]
    assert [(row["dataset"], row["strategy"], row["improvement"]) for row in best_by_dataset(rows)] == [
        ("e", "x", pytest.approx(0.2)),
        ("d", "y", pytest.approx(0.1)),
    ]


def test_gains_are_paired_by_seed_and_choices_counted():
    rows = [
        {"dataset": dataset, "seed": seed, "strategy": strategy, "cler": cler}
        for dataset in ("d", "e")
        for seed, by_class, single in ((0, 0.5, 0.4), (1, 0.3, 0.4))
        for strategy, cler in ((BY_CLASS, by_class), (SINGLE, single), (HINDSIGHT, 0.9))
    ]
    assert gains(rows) == pytest.approx([10, -10])
    found = choice_by_class([{"dataset": "d", "class_name": "kea", "chosen": each} for each in ("x", "y", "y")], 3)
    assert found == [{"dataset": "d", "class_name": "kea", "chosen": "y (2 of 3), x (1 of 3)"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ()}, "strategies is empty"),
        ({"strategies": ("defined",)}, "unknown prompt strategy"),
        ({"strategies": ("negative_prompts", "defined_template+negative_prompts")}, "is given twice"),
        ({"pilot_shots": 30}, "the pilot's 30 shots are more than the 20"),
        ({"validation_shots": -1}, "validation shots -1"),
        ({"strategies": ("category_enhancement",), "sentence_model": "t6"}, "unknown sentence"),
    ],
)
def test_bad_input_is_one_sentence(parts: dict[str, Any], changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run_prompts(PromptsConfig(**(parts | changes)))
    assert "\n" not in str(caught.value)
    assert not Path(parts["workspace"]).exists()


def test_without_its_model_category_enhancement_is_left_out_and_the_report_says_so(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def absent(*_: Any) -> None:
        raise ValueError("sentence model 't5-common-gen' could not be loaded (offline); check its files")

    monkeypatch.setattr(prompts, "load_sentences", absent)
    strategies = ("category_enhancement", "simple_template")
    compared = PromptStudy(PromptsConfig(**parts, strategies=strategies))
    assert [name for name, each in compared.variants.items() if each.source == "generative"] == ["simple_template"]
    (note, *_) = compared._notes([])
    assert note.startswith("category_enhancement is left out: sentence model 't5-common-gen' could not be loaded")
    named = PromptStudy(PromptsConfig(**parts, strategies=strategies, sentence_model="my/model"))
    with pytest.raises(ValueError, match="could not be loaded"):
        _ = named.variants


def test_a_strategy_without_images_is_neither_chosen_nor_scored(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    strategies = ("simple_template", "defined_template")
    compared = PromptStudy(PromptsConfig(**parts, strategies=strategies, pilot_shots=2, validation_shots=2, shots=2))
    (dataset,) = compared.datasets

    def images(num: int) -> Images:
        classes = np.arange(num) % 3
        vectors = np.eye(compared.encoder.dimension, dtype=np.float32)[classes]
        return Images([f"{number:032x}" for number in range(num)], np.arange(num), classes, classes, vectors)

    made = {id(compared.plans[name][dataset.name, 0]): 6 for name in ("simple_template", "original")}
    made[id(compared.test_plans[dataset.name])] = 9
    for module in (study, scoring):
        monkeypatch.setattr(
            module, "load_images", lambda _workspace, _encoder, plan, _num: images(made.get(id(plan), 0))
        )
    row = {"zero_shot": 0.3, "cler_ensemble": 0.5, "linear_probe": 0.5, "images": 6}
    scored = {("simple_template", 0): row | {"cler": 0.5}, ("defined_template", 0): row | {"cler": None, "images": 0}}
    workspace = Workspace.open(tmp_path / "workspace")
    evaluation = compared.evaluation_set(workspace, dataset)
    found, of_classes = compared._choose(evaluation, 0, strategies, scored)
    assert {each["chosen"] for each in of_classes} == {"simple_template"}
    assert [(each["strategy"], each["images"]) for each in found] == [(BY_CLASS, 6), (SINGLE, 6), (HINDSIGHT, 6)]
    scored["simple_template", 0]["cler"] = None
    assert compared._choose(evaluation, 0, strategies, scored) == ([], [])


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_strategies_and_then_metrics_are_compared_in_one_workspace(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (study, prompts):
        monkeypatch.setattr(module, "load_sentences", partial(load_sentences, num_sentences=2))
    monkeypatch.setattr("engine.models.text.MAX_SENTENCE_TOKENS", 6)  # the tiny generator reads no more than 30 letters
    strategies = ("defined_template", "category_enhancement", "retrieval_augmented")
    config = PromptsConfig(
        **parts,
        sentence_model=str(save_t5(tmp_path / "t5")),
        strategies=strategies,
        shots=2,
        pilot_shots=1,
        validation_shots=2,
        seeds=(0, 1),
    )
    report = run_prompts(config)
    workspace = Workspace.open(config.workspace, create=False)
    # 3 classes x 2 shots x 2 seeds of each strategy; what is retrieved is the same for both
    assert workspace.count("source = 'generative'") == 36
    assert workspace.count("source = 'retrieval'") == 6
    names = ["defined_template", "category_enhancement", "defined_template+retrieval_augmented", "retrieval"]
    assert [row["strategy"] for row in report.tables["table_2"]] == names
    assert {row["strategy"] for row in report.tables["choice"]} == {BY_CLASS, SINGLE, HINDSIGHT}
    assert {row["images"] for row in report.tables["choices"]} == {6}
    assert len(report.tables["choice_by_class"]) == 3
    assert report.tables.get("errors", []) == []
    page = (config.report / "index.html").read_text()
    assert "Table 2: CLER by prompt strategy" in page

    before = workspace.count()
    metrics = MetricsConfig(
        **parts,
        strategies=strategies[:1],
        shots=(1, 2),
        compare_shots=2,
        seeds=(0, 1),
        other_encoders=("mini-judge",),
        nearest_captions=3,
    )
    measured = run_metrics(metrics)
    # originals of both seeds are there up to 2 shots, so nothing is made twice
    assert workspace.count() == before
    points = measured.tables["points"]
    assert {(row["source"], row["shots"], row["seed"]) for row in points if row["source"] != "retrieval"} == {
        (source, shots, seed) for source in ("generative", "original") for shots in (1, 2) for seed in (0, 1)
    }
    assert len([row for row in points if row["source"] == "retrieval"]) == 2
    assert {row["fid_features"].split("@")[0] for row in points} == {"mini-judge"}
    assert {row["encoder"].split("@")[0] for row in measured.tables["figure_9_points"]} == {"encoder", "mini-judge"}
    assert len(measured.tables["figure_6_classes"]) == 3
    saved = json.loads((metrics.report / "report.json").read_text())["tables"]
    assert {"figure_4", "figure_5", "figure_10", "section_12_2"} <= set(saved)


def test_negative_prompts_stand_beside_the_same_prompts_at_the_same_guidance(parts: dict[str, Any]):
    """Otherwise the effect of guidance is taken for that of negative prompts."""
    strategies = ("class_name", "defined_template+negative_prompts", "class_name+negative_prompts")
    compared = PromptStudy(
        PromptsConfig(**parts | {"generator": "mini"}, strategies=strategies, shots=2, pilot_shots=1)
    )
    generated = {name: each for name, each in compared.variants.items() if each.is_generated}
    assert list(generated) == [
        "class_name",
        "defined_template (guidance 2)",
        "defined_template+negative_prompts",
        "class_name (guidance 2)",
        "class_name+negative_prompts",
    ]
    (dataset,) = compared.datasets
    first = {name: compared.plans[name][dataset.name, 0][0] for name in generated}
    assert {name: recipe.guidance_scale for name, recipe in first.items()} == {
        name: 1.0 if name == "class_name" else 2.0 for name in generated
    }
    plain, negative = first["class_name (guidance 2)"], first["class_name+negative_prompts"]
    assert (plain.prompt, plain.seed) == (negative.prompt, negative.seed)
    assert not plain.negative_prompt
    assert negative.negative_prompt
    assert any("compare them with the row of the same guidance" in note for note in compared._notes([]))
    # a generator that is guided by default needs no second row
    assert list(PromptStudy(PromptsConfig(**parts, strategies=strategies)).variants)[:3] == list(strategies)
