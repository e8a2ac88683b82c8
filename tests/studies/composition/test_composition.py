"""The composition study: contexts of the world, prompts and judge, and one small study from models to report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.miniature.checkpoints import CHECKPOINTS
from engine.models import generator_spec, load_encoder
from engine.studies.composition.config import SHIPPED, TRAINED, CompositionConfig
from engine.studies.composition.judge import CompositionJudge, Shown, context_of, phrases
from engine.studies.composition.presentation import figures, findings
from engine.studies.composition.study import run_composition


@pytest.fixture
def config(tmp_path: Path) -> CompositionConfig:
    """The shipped models, which were taught no context, stand in for models that were."""
    models = tmp_path / "models"
    models.mkdir()
    for kind in ("generator", "reference"):
        (models / kind).symlink_to(CHECKPOINTS / kind)
    return CompositionConfig(
        models=models,
        datasets=("mini-novel",),
        methods=("none", "zero"),
        seeds=(0,),
        database_shots=8,
        texts=1,
        judge_images=4,
        workspace=str(tmp_path / "workspace"),
        report=tmp_path / "report",
    )


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_images_are_scored_for_object_and_context(config: CompositionConfig):
    run_composition(config)
    tables = json.loads((config.report / "report.json").read_text())["tables"]
    rows = {(row["branch"], row["method"], row["prompt"]): row for row in tables["composition"]}
    assert {key[:2] for key in rows} == {("-", "none"), (SHIPPED, "zero"), (TRAINED, "zero")}
    for row in rows.values():
        assert row["images"] == 12 * (4 if row["prompt"] == "all contexts" else 1)
        assert row["both"] <= min(row["object"], row["context"])
    # models that know no context show none, whatever is asked for
    assert rows["-", "none", "all contexts"]["context"] < 0.3 < rows["-", "none", "no context"]["context"]
    assert rows["-", "none", "no context"]["right_references"] is None
    assert rows[SHIPPED, "zero", "no context"]["reference_correlation"] > 0.5
    assert {row["prompt"] for row in tables["composition_by_context"]} == set(phrases()[1:])


def test_the_judge_knows_object_and_context_of_real_images():
    encoder = load_encoder("mini-judge")
    judge = CompositionJudge.of(encoder, ["mini-novel"], 6)
    shown = Shown.rendered(encoder, "mini-novel", "test", 3)
    right, placed = judge.score("mini-novel", shown.features, shown.labels, shown.places)
    assert right.mean() > 0.7
    assert placed.mean() > 0.85
    assert judge.score("mini-novel", shown.features, shown.labels, (shown.places + 1) % 5)[1].mean() < 0.1


def test_a_prompt_ends_in_its_context():
    for phrase in phrases():
        assert context_of(f"a photo of a robin {phrase}".strip()) == phrase
    assert context_of("a photo of a lamp on grass at night.") == "at night"
    assert context_of("a photo of a night on snow owl") == ""


def row(branch: str, method: str, seed: int, value: float, **more: float) -> dict:
    names = dict.fromkeys(("object", "context", "both"), value)
    return {
        "branch": branch,
        "method": method,
        "seed": seed,
        "dataset": "mini-novel",
        "prompt": "all contexts",
        **names,
        **more,
    }


def test_the_finding_compares_the_branches():
    rows = [row("-", "none", 0, 0.1), row("-", "none", 1, 0.3)]
    rows += [row(SHIPPED, "realrag", seed, 0.4, reference_correlation=0.9) for seed in (0, 1)]
    rows += [row(TRAINED, "realrag", seed, 0.7, reference_correlation=0.5) for seed in (0, 1)]
    first, second = findings(rows)
    assert "without a reference, object 20.0 ± 14.1 %" in first
    assert "both 70.0 ± 0.0 % (mean over data sets; ± is over 2 seeds)" in first
    assert "90 % through the shipped branch and by 50 %" in second
    assert findings([]) == []
    assert len(figures(rows)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ("mini-rare",)}, "mini-rare"),
        ({"datasets": ()}, "datasets"),
        ({"methods": ("oracle",)}, "oracle"),
        ({"judge_images": 1}, "give 2 or more"),
        ({"models": Path("nowhere")}, "train-miniature generator --contexts 24 --output nowhere/generator"),
    ],
)
def test_bad_settings_are_told_before_anything_starts(config: CompositionConfig, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        run_composition(replace(config, **changes))
    assert not Path(config.workspace).exists()


def test_a_branch_that_is_missing_is_trained_beside_its_own_generator(config: CompositionConfig):
    (config.models / "reference").unlink()
    own = f"train-miniature reference --contexts 24 --generator {config.models / 'generator'} --output"
    with pytest.raises(ValueError, match=own):
        config.check()


def test_the_branches_stand_beside_one_generator(config: CompositionConfig):
    (config.models / "reference").unlink()
    (config.models / "reference").symlink_to(CHECKPOINTS / "judge")  # other weights
    shipped, trained = config.generators[SHIPPED], config.generators[TRAINED]
    assert shipped.revision == trained.revision
    assert shipped.auxiliaries["controlnet"] == generator_spec("mini").auxiliaries["controlnet"]
    assert trained.auxiliaries["controlnet"].revision != shipped.auxiliaries["controlnet"].revision
    assert trained.recipe_revision("controlnet") != shipped.recipe_revision("controlnet")


def test_features_are_in_the_order_of_classes_and_contexts():
    shown = Shown.rendered(load_encoder("mini-judge"), "mini-novel", "test", 2)
    assert shown.labels.tolist() == sorted(shown.labels.tolist())
    assert shown.places[:10].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert np.allclose(np.linalg.norm(shown.features, axis=1), 1, atol=1e-5)
