"""The premise study: its scores on planted numbers, and one small world from models to report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.miniature.checkpoints import CHECKPOINTS
from engine.studies.premise.config import METHODS, PremiseConfig
from engine.studies.premise.kinds import by_kind
from engine.studies.premise.presentation import figures, findings
from engine.studies.premise.study import build_report, comparisons, run_premise, setting_comparisons
from engine.studies.premise.world import precision, precision_of
from engine.world.classes import PAIRS, class_names, genus, shown_to_generator


@pytest.fixture
def config(tmp_path: Path) -> PremiseConfig:
    """The shipped models, which have not seen `mini-pairs`, stand in for models that were trained on it."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "generator").symlink_to(CHECKPOINTS / "generator")
    (models / "clip-0.5").symlink_to(CHECKPOINTS / "clip")
    return PremiseConfig(
        models=models,
        genus_shares=(0.5,),
        worlds=(0,),
        seeds=(0,),
        shots=6,
        test_images=2,
        texts=2,
        images=2,
        epochs=2,
        grid=False,
        workspace=str(tmp_path / "workspace"),
        report=tmp_path / "report",
    )


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_world_is_scored_by_kind_of_class(config: PremiseConfig):
    run_premise(config)
    tables = json.loads((config.report / "report.json").read_text())["tables"]
    scores = {(row["method"], row["classes"]): row for row in tables["scores"]}
    assert {method for method, _ in scores} == {*METHODS, "lookup"}
    shown = sum(shown_to_generator(PAIRS)) / len(class_names(PAIRS))
    for method in METHODS:
        taught, untaught, both = (scores[method, kind] for kind in ("A", "B", "all"))
        assert both["accuracy"] == pytest.approx(shown * taught["accuracy"] + (1 - shown) * untaught["accuracy"])
    assert scores["none", "A"]["precision_at_10"] is None
    # three images of each class can be found, so ten places hold 30 % of them at most
    assert 0 < scores["lookup", "all"]["precision_at_10"] <= 0.3
    assert {row["classes"] for row in tables["held_out"]} == {"trained", "held out"}
    assert {(row["from"], row["to"]) for row in tables["comparisons"]} >= {("normal", "realrag"), ("zero", "normal")}
    (premise,) = tables["premise"]
    assert 0 <= premise["clip_right"] + premise["clip_sibling"] <= 1
    assert premise["judge_on_real"] > 5 / len(class_names(PAIRS))


def test_kinds_are_the_siblings_that_the_generator_was_taught_and_those_that_it_was_not():
    names, taught = class_names(PAIRS), shown_to_generator(PAIRS)
    rows = {row["classes"]: row for row in by_kind({"score": {n: float(t) for n, t in enumerate(taught)}})}
    assert (rows["A"]["score"], rows["B"]["score"]) == (1, 0)
    assert rows["all"]["score"] == pytest.approx(sum(taught) / len(names))
    untaught = [genus(name) for name, t in zip(names, taught, strict=True) if not t]
    assert len(untaught) == len(set(untaught)) == 30  # one per genus
    assert by_kind({"score": {}})[0]["score"] is None


def test_precision_counts_the_images_of_the_class_among_the_ten_nearest():
    images = np.eye(4, dtype=np.float32)[np.repeat([0, 1, 2], 12)]
    labels = np.repeat([0, 1, 1], 12)
    texts = np.eye(4, dtype=np.float32)[[0, 2]]
    assert precision(images, labels, texts) == {0: 1.0, 1: 1.0}
    assert precision(images, 1 - labels, texts) == {0: 0.0, 1: 0.0}
    scores = np.stack([np.arange(36.0), -np.arange(36.0)], axis=1)
    assert precision_of(scores, labels) == {0: 0.0, 1: 0.0}
    assert precision_of(-scores, labels) == {0: 1.0, 1: 1.0}


def planted(method: str, world: int, seed: int, value: float) -> dict:
    return {
        "genus_share": 0.5,
        "classes": "B",
        "method": method,
        "world": world,
        "seed": seed,
        "precision_at_10": value,
        "accuracy": None,
    }


def test_gains_are_tested_over_pairs_and_over_worlds():
    gains = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.2, (1, 1): 0.4}
    scores = [planted("normal", *pair, 0.5) for pair in gains]
    scores += [planted("realrag", *pair, 0.5 + gain) for pair, gain in gains.items()]
    (row,) = comparisons(scores)
    assert (row["from"], row["to"], row["outcome"]) == ("normal", "realrag", "precision_at_10")
    assert row["difference"] == pytest.approx(0.25)
    assert (row["pairs"], row["worlds"]) == (4, 2)
    # t = .25 / (.1291 / 2) = 3.873 with 3 degrees of freedom; over worlds t = .25 / .05 = 5 with 1
    assert row["p_pairs"] == pytest.approx(0.0305, abs=1e-4)
    assert row["p_worlds"] == pytest.approx(0.1257, abs=1e-4)
    assert comparisons([one for one in scores if one["method"] == "normal"]) == []


def test_the_report_says_how_many_worlds_have_run(config: PremiseConfig):
    scores = [planted("normal", world, 0, 0.25 * world) for world in (0, 1)]
    report = build_report(replace(config, worlds=(0, 1, 2)), {"scores": scores})
    (row,) = report.tables["outcomes"]
    assert (row["precision_at_10"], row["pairs"], row["worlds"]) == (0.125, 2, 2)
    assert report.notes[0].startswith("2 of 3 worlds")


def test_the_finding_is_the_gain_on_both_kinds_over_world_means():
    scores = [planted("normal", world, seed, 0.5) for world in (0, 1) for seed in (0, 1)]
    scores += [planted("realrag", world, seed, 0.6 + 0.1 * world) for world in (0, 1) for seed in (0, 1)]
    scores += [row | {"classes": "A", "precision_at_10": 1.1 - row["precision_at_10"]} for row in scores]
    premise = [{"genus_share": 0.5, "generated_sibling": 0.4, "mined_sibling": 0.5, "clip_sibling": 0.25}]
    (sentence,) = findings(scores, premise)
    assert "a sibling for 40 % of the images of B, 50 % of B's mined negatives" in sentence
    assert "+15.0 ± 7.1 points on B and -15.0 ± 7.1 points on A (± is over 2 world means)" in sentence
    assert findings([row for row in scores if row["method"] == "normal"], premise) == []
    outcomes = [{"genus_share": 0.5, "method": "normal", "classes": "B", "precision_at_10": 0.5, "accuracy": None}]
    (caption,) = figures(outcomes)
    assert caption.startswith("Precision@10 by kind of class and method, 50 % of CLIP's captions")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": Path("nowhere")}, "train it with imagefoundry train-miniature generator --pairs 6"),
        ({"genus_shares": (0.5, 0.9)}, "clip-0.9 holds no CLIP model; train it with imagefoundry train-miniature clip"),
        ({"genus_shares": (1.0,)}, "genus share 1.0 is not from 0 to below 1"),
        ({"worlds": ()}, "worlds is empty"),
        ({"seeds": (-1,)}, "seed -1 is negative"),
        ({"texts": 0}, "texts is 0"),
    ],
)
def test_bad_settings_are_told_before_anything_starts(config: PremiseConfig, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        run_premise(replace(config, **changes))


def test_each_setting_is_compared_with_normal_training_of_its_own_epochs_and_batches():
    rows = []
    for epochs, base in ((10, 0.5), (60, 0.6)):
        for world in (0, 1):
            for seed in (0, 1):
                at = {"epochs": epochs, "batch_size": 16, "temperature": True}
                rows.append(planted("normal", world, seed, base + 0.01 * seed) | at)
                rows.append(planted("realrag", world, seed, base + 0.01 * seed - 0.02 - 0.001 * seed) | at)
                plain = planted("realrag", world, seed, base + 0.01 * seed + 0.001 * world) | at
                rows.append(plain | {"temperature": False})
    found = {
        (row["epochs"], row["temperature"]): row
        for row in setting_comparisons(rows)
        if row["outcome"] == "precision_at_10"
    }
    assert len(found) == 4
    for epochs in (10, 60):
        assert found[epochs, True]["difference"] == pytest.approx(-0.0205)
        assert found[epochs, False]["difference"] == pytest.approx(0.0005)
        assert found[epochs, True]["pairs"] == 4
    assert {row["to"] for row in found.values()} == {"realrag"}
