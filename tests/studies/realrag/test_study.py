"""The RealRAG study: on tiny real things from configuration to report, and its tables on planted numbers."""

import builtins
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from engine.catalog import load_dataset
from engine.evaluation import fit_linear_probe
from engine.models import load_encoder
from engine.recipe import Recipe
from engine.retriever.database import Database
from engine.retriever.fit import TrainingConfig
from engine.retriever.heads import load_kept_head
from engine.sources import GeneratorMaker, Made, plan_ids
from engine.sources.retrieval import class_queries
from engine.store import Workspace
from engine.studies.base import run_study
from engine.studies.realrag.config import RealRagConfig, RetrieverSettings, TrainRetrieverConfig
from engine.studies.realrag.judge import ImageSet, Judge, class_prompts, load_images
from engine.studies.realrag.options import OPTIONS
from engine.studies.realrag.pictures import project
from engine.studies.realrag.retrievers import train_retriever
from engine.studies.realrag.study import RealRag, run_realrag
from engine.testing.models import save_encoder
from tests.studies.inception import fid_by_hand, forbid_inception, images_with_features, rows_by_inception


@dataclass
class FailsWhile(GeneratorMaker):
    """Fails on the first class while a file is there."""

    file: str = ""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        made = super().make(recipes)
        fails = [recipe.class_index == 0 and Path(self.file).exists() for recipe in recipes]
        return [Made(reason="no") if failed else one for failed, one in zip(fails, made, strict=True)]


@pytest.fixture
def config(tmp_path: Path, tiny_dataset: Path, tiny_pipeline: str, tiny_encoder: str) -> RealRagConfig:
    return RealRagConfig(
        datasets=(str(tiny_dataset),),
        generators=(tiny_pipeline,),
        encoder=tiny_encoder,
        judge=str(save_encoder(tmp_path / "judge", seed=1)),
        database_shots=6,
        texts=2,
        images=2,
        references=2,
        training=TrainingConfig(epochs=3, batch_size=4, hidden=8),
        validation_share=0.34,
        checkpoints=(1,),
        options=True,
        batch_size=4,
        workspace=str(tmp_path / "workspace"),
        report=tmp_path / "report",
    )


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_the_study_makes_judges_and_shows_all_methods_once(config: RealRagConfig, monkeypatch: pytest.MonkeyPatch):
    run_realrag(config)
    workspace = Workspace.open(config.workspace, create=False)
    report = json.loads((config.report / "report.json").read_text())
    tables = report["tables"]
    assert workspace.count("source = 'original' AND split = 'train'") == 18
    assert workspace.count("source = 'original' AND split = 'test'") == 12
    assert workspace.count("strategy = 'defined_template'") == 6
    assert workspace.count("strategy = 'simple_template'") == 12  # 3 classes x 2 images x 2 seeds
    by_method = {(row["method"], row["seed"]): row for row in tables["realrag_by_seed"]}
    assert set(by_method) == {(method, seed) for method in ("none", "zero", "normal", "realrag") for seed in (0, 1)}
    for (method, _), row in by_method.items():
        assert row["images"] == 6
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["zero_shot_accuracy"] <= 1
        assert row["fid"] >= 0
        assert -100 <= row["clip_i"] <= 100
        assert (row["right_references"] is None) == (method == "none")
    # a reference is a training image of the half that was not mined
    mined = {name for plan in RealRag(config).mining.values() for name in plan.ids()}
    referred = {
        name
        for batch in workspace.scan(["reference_id"], "strategy = 'simple_template+retrieval_augmented'")
        for name in batch.column("reference_id").to_pylist()
    }
    assert referred
    assert not referred & mined
    assert referred <= {name for plan in RealRag(config).retrieval.values() for name in plan.ids()}
    # the judge has learnt from the other half alone: no reference is known to it
    assert tables["judge"][0]["probe_images"] == len(mined) == 9
    assert {(row["method"], row["epoch"]) for row in tables["figure_7"]} == {("normal", 1), ("realrag", 1)}
    assert {row["method"] for row in tables["retrieval"]} == {"zero", "normal", "realrag"}
    assert all(row["index_recall"] == 1 for row in tables["retrieval"])
    assert tables["judge"][0]["accuracy_on_real"] == 1  # colours tell the classes apart
    changes = {row["change"] for row in tables["head_options"]}
    assert {name for name, _ in OPTIONS} < changes
    assert len(changes) == len(OPTIONS) + 2
    assert all(row["seeds"] == 2 for row in tables["realrag_table_5"])
    assert "index.html" in {path.name for path in config.report.iterdir()}
    # the heads, those of kept epochs among them, are in the workspace; the negatives are those that training used
    assert load_kept_head(workspace, "realrag").spec.label == "realrag"
    assert workspace.heads("NOT kept AND label <> 'option'").num_rows == 4
    assert workspace.heads("kept").num_rows == 2
    assert workspace.heads("label = 'option'").num_rows == 2 * len(changes)
    assert {row["masked"] for row in workspace.negatives().to_pylist()} == {True, False}
    stages = {entry["stage"] for entry in workspace.ledger().to_pylist()}
    assert stages == {"make", "embed", "mine", "train"}
    assert not (Path(config.workspace) / "training").exists()

    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("a head is trained again, or outside the cluster")

    monkeypatch.setattr("engine.retriever.ray_training.train_heads", never)
    monkeypatch.setattr("engine.retriever.fit.fit_head", never)
    before = workspace.count()
    run_realrag(config)
    assert workspace.count() == before
    again = json.loads((config.report / "report.json").read_text())["tables"]
    assert again["realrag_by_seed"] == tables["realrag_by_seed"]
    assert again["training_curves"] == tables["training_curves"]
    assert again["head_options"] == tables["head_options"]
    assert workspace.heads().num_rows == 6 + 2 * len(changes)
    assert again["errors"] == []


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_retrievers_are_trained_without_the_study_and_found_by_it(config: RealRagConfig, monkeypatch):
    reads: dict[str, int] = {"database": 0, "images": 0}

    def read_database(*arguments: object) -> Database:
        reads["database"] += 1
        return Database(*arguments)

    def read_images(workspace: Workspace, wanted: Sequence[str], encoders: Sequence[str]) -> ImageSet:
        reads["images"] += wanted == mined
        return load_images(workspace, wanted, encoders)

    mined = [one for plan in RealRag(config).mining.values() for one in plan.ids()]
    monkeypatch.setattr("engine.studies.realrag.lessons.Database", read_database)
    monkeypatch.setattr("engine.studies.realrag.lessons.load_images", read_images)
    methods = ("zero", "random", "image_hard", "realrag", "selective")
    shared = {name: getattr(config, name) for name in vars(RetrieverSettings()) if name in vars(config)}
    alone = TrainRetrieverConfig(
        **shared | {"generator": config.generators[0], "methods": methods, "seeds": (0,), "held_out_share": 0.34}
    )
    report = train_retriever(alone)
    assert reads == {"database": 1, "images": 1}  # although mined, learned from, and referred to by the negatives
    assert {row["method"] for row in report.tables["retrieval"]} == set(methods)
    assert {(row["classes"], row["num_classes"]) for row in report.tables["held_out"]} == {
        ("trained", 2),
        ("held out", 1),
    }
    heads = {row["method"]: row for row in report.tables["heads"]}
    assert set(heads) == {*methods} - {"zero"}
    row = heads["realrag"]
    workspace = Workspace.open(config.workspace, create=False)
    head = load_kept_head(workspace, row["head"])
    assert (head.name, head.spec.label) == (row["head"], "realrag")
    assert workspace.count("split = 'test'") == 0
    # what is there is not made, mined or trained again
    before = workspace.count(), workspace.negatives().num_rows

    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("engine.retriever.ray_training.train_heads", never)
    assert train_retriever(alone).tables["retrieval"] == report.tables["retrieval"]
    assert (workspace.count(), workspace.negatives().num_rows) == before
    with pytest.raises(ValueError, match="unknown head 'realrga'"):
        load_kept_head(workspace, "realrga")


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_an_image_that_failed_is_not_made_by_the_judge(
    config: RealRagConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A recipe that fails is an error row; the second run makes it, and embeds it by both encoders."""
    small = replace(config, methods=("none", "zero"), checkpoints=(), options=False, seeds=(0,))
    broken = tmp_path / "broken"
    broken.touch()

    def shaky(self: RealRag, generator: str) -> GeneratorMaker:
        return FailsWhile(**vars(real(self, generator)), file=str(broken))

    real = RealRag.generator_maker
    monkeypatch.setattr(RealRag, "generator_maker", shaky)
    run_realrag(replace(small, max_errors=0.9))
    broken.unlink()
    workspace = Workspace.open(config.workspace, create=False)
    assert workspace.errors().num_rows
    run_realrag(small)
    assert workspace.errors().num_rows == 0
    assert (
        workspace.count(" OR ".join(f"{name} IS NULL" for name in workspace.embedding_columns() if "zero" not in name))
        == 0
    )


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_inceptions_features_are_made_once_by_workers(
    config: RealRagConfig, inception_weights: Path, monkeypatch: pytest.MonkeyPatch
):
    small = replace(
        config, methods=("none",), checkpoints=(), options=False, seeds=(0,), test_images=2, inception=inception_weights
    )
    with monkeypatch.context() as patch:
        forbid_inception(patch)
        study = RealRag(small)
        (row,) = run_study(study).tables["realrag_by_seed"]
        workspace = Workspace.open(config.workspace, create=False)
        made = rows_by_inception(workspace)
        assert run_realrag(small).tables["realrag_by_seed"] == [row]
        assert rows_by_inception(workspace) == made
    (test,), ((judged,),) = study.tests.values(), (plans.values() for plans in study.plans.values())
    # images of the database are retrieved, and compared with nothing
    assert images_with_features(workspace, inception_weights) == {*plan_ids(test), *plan_ids(judged)}
    assert made == len(test) + len(judged) < workspace.count()
    expected = fid_by_hand(workspace, inception_weights, plan_ids(test), plan_ids(judged))
    assert row["fid"] == pytest.approx(expected, rel=1e-3)


def test_places_are_found_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    features = np.concatenate([random.normal(size=(20, 8)), 10 + random.normal(size=(20, 8))])
    real_import = builtins.__import__

    def without(name, *arguments, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    places, kind = project(features)
    assert (kind, places.shape) == ("PCA", (40, 2))
    assert places[:20, 0].max() < places[20:, 0].min() or places[:20, 0].min() > places[20:, 0].max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("non",)}, "unknown method 'non'; did you mean none"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (-1,)}, "seed -1 is negative"),
        ({"images": 0}, "images is 0; give 1 or more"),
        ({"held_out_share": 1.0}, r"held_out_share is 1\.0"),
        ({"held_out_share": 0.25}, "leave held_out_share out"),
        ({"database_shots": 1}, "database_shots is 1; give 2 or more"),
        ({"checkpoints": (0,)}, "a checkpoint before the first epoch"),
        ({"strategy": "retrieval_augmented"}, "leave it out of the strategies"),
        ({"training": TrainingConfig(epochs=0)}, "epochs is 0"),
        ({"generators": ("qwen-image-edit",)}, "requires a reference image; leave out the methods none and realrag"),
        ({"test_images": 0}, "test_images is 0"),
        ({"methods": ("zero",)}, "options compare ways to train realrag"),
        ({"reference_mode": "redux"}, "does not support reference_mode 'redux'"),
        ({"datasets": ("mini-comon",)}, "unknown data set 'mini-comon'"),
        ({"judge": "mini-juge"}, "unknown encoder 'mini-juge'"),
        ({"inception": Path("/nowhere.safetensors")}, "Inception weights /nowhere.safetensors cannot be read"),
    ],
)
def test_bad_settings_are_told_before_anything_starts(config: RealRagConfig, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RealRag(replace(config, **changes)).check()
    assert not Path(config.workspace).exists()


def test_the_judge_also_goes_by_the_class_names(tmp_path: Path, tiny_dataset: Path):
    """An image in the direction of a class's name is named right, whatever the probe has learnt."""
    dataset = load_dataset(str(tiny_dataset))
    encoder = load_encoder(str(save_encoder(tmp_path / "judge", seed=1)))
    names = class_queries(encoder, dataset)
    images = ImageSet(
        ids=list("abc"),
        classes=[(dataset.name, number) for number in (0, 1, 2)],
        prompts=[""] * 3,
        reference_ids=[""] * 3,
        features={encoder.name: names[[0, 1, 1]]},
    )
    probe = fit_linear_probe(-names, np.arange(3), num_classes=3)
    judge = Judge(dataset, Workspace.open(str(tmp_path / "workspace")), encoder, encoder, images, probe, frozenset())
    assert judge.is_named(images).tolist() == [True, True, False]
    assert judge.row()["zero_shot_accuracy"] == pytest.approx(2 / 3)


def test_written_prompts_are_queries_and_prompts_of_their_data_set(config: RealRagConfig, tmp_path: Path):
    dataset = load_dataset(config.datasets[0])
    written = {name: [f"a {name} on the moon", f"a {name} at sea"] for name in dataset.class_names}
    (tmp_path / "prompts.json").write_text(json.dumps(written))
    study = RealRag(
        replace(config, prompts=tmp_path / "prompts.json", methods=("none",), checkpoints=(), options=False)
    )
    study.check()
    (given,) = study.datasets
    study._plan_without(next(iter(study.generators)), 0)
    ((plan,),) = (plans.values() for plans in study.plans.values())
    shown = {plan[index].prompt for index in range(len(plan))}
    assert shown == {prompt for prompts in written.values() for prompt in prompts}
    assert plan[0].strategy == study.strategy_of(given) == "written_prompt"
    assert class_prompts(given, study.strategy_of(given)) == [prompts[0] for prompts in written.values()]
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read"):
        RealRag(replace(config, prompts=Path("/nowhere.json"))).check()
