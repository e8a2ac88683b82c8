"""Metrics, their times and their correlations, on made-up features and points."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.evaluation import MetricInputs
from engine.evaluation.metrics import LINEAR_PROBE, proxy_metrics
from engine.evaluation.metrics.device_time import device_seconds
from engine.sources import plan_ids
from engine.store import Workspace
from engine.studies.genbench.metric_report import MetricFindings, metric_report, small_sets, times
from engine.studies.genbench.metrics import MetricsConfig, MetricStudy, measure_point, recall_by_class, run_metrics
from engine.testing.contracts import made_up_inputs
from tests.studies.inception import fid_by_hand, forbid_inception, images_with_features, rows_by_inception


def _images(seed: int, each: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    classes = np.tile(np.arange(3), each)
    features = (np.eye(8)[classes] + noise * g.normal(size=(len(classes), 8))).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True), classes


def _measure(noise: float) -> dict[str, Any]:
    (test, truth), (train, labels) = _images(0, 20, 0.2), _images(1, 10, noise)
    return measure_point(
        MetricInputs(
            train_features=train,
            train_labels=labels,
            train_classes=labels,
            test_features=test,
            test_labels=truth,
            num_classes=3,
            text_features=np.eye(8, dtype=np.float32)[:3, None],
            fid_features=(test, train),
            fid_name="judge",
        )
    )


def test_every_metric_of_good_images_is_better_than_of_noise():
    good, noise = _measure(0.1), _measure(30.0)
    for name in ("cler", "cler_ensemble", "linear_probe", "clip_score", "precision_at_5"):
        assert good[name] > noise[name]
    assert good["fid"] < noise["fid"]
    assert all(good[f"seconds_{name}"] > 0 for name in ("cler", "clip_score", "fid", "retrieval", "linear_probe"))


def test_metrics_are_measured_once_with_their_times():
    first = _measure(0.5)
    assert _measure(0.5) == first  # seconds included, which no second measurement would repeat
    assert _measure(0.6)["seconds_linear_probe"] != first["seconds_linear_probe"]


def _points() -> list[dict[str, Any]]:
    points = []
    for number, (source, shots, seed) in enumerate(
        (source, shots, seed) for source in ("generative", "retrieval") for shots in (5, 20) for seed in range(4)
    ):
        accuracy = 0.3 + 0.04 * number
        points.append(
            {
                "dataset": "d",
                "group": "common" if seed % 2 else "rare",
                "source": source,
                "strategy": "",
                "shots": shots,
                "seed": seed,
                "cler": accuracy - 0.05,
                "cler_ensemble": accuracy,
                "clip_score": 30 + seed,
                "fid": 100 - 50 * accuracy,
                "precision_at_5": accuracy / 2,
                "recall_at_5": accuracy / 20,
                "linear_probe": accuracy,
                **{f"seconds_{name}": 0.01 for name in ("cler", "clip_score", "retrieval", "fid")},
                "seconds_linear_probe": 1.0,
            }
        )
    return points


def test_the_report_holds_every_correlation_and_figure():
    points = _points()
    other = [row | {"encoder": name} for row in points if row["source"] == "generative" for name in ("a", "b")]
    classes = [
        {"group": "rare", "source": "generative", "class_name": str(n), "mts": n / 10, "cler_change": -n / 10}
        for n in range(5)
    ]
    report = metric_report(MetricFindings(5, points, other, classes[:3], classes))
    four = {(row["score"], row["group"]): row for row in report.tables["figure_4"]}
    assert four["cler", "all"]["n"] == 8  # generated images alone
    assert four["cler", "all"]["pearson"] == pytest.approx(1)
    assert four["fid", "rare"]["pearson"] == pytest.approx(-1)
    assert {row["group"] for row in report.tables["figure_9"]} == {"all", "a", "b"}
    assert {row["group"] for row in report.tables["figure_10"]} == {"all", "retrieval"}
    assert [row["group"] for row in report.tables["figure_6"]] == ["all", "rare", "data sets"]
    assert report.tables["figure_6"][0]["pearson"] == pytest.approx(-1)
    captions = " ".join(report.figures)
    assert all(f"Figure {number}" in captions for number in (4, 5, 6, 9, 10))
    assert any("r = 1.00 [1.00, 1.00], n = 8" in svg for svg in report.figures.values())


def test_figure_4_is_also_shown_for_the_papers_eighteen_sets():
    """Sets of two categories are left out there; a correlation that they alone make disappears."""
    assert small_sets() == {"pcam", "renderedsst2", "fer2013", "hateful_memes"}
    points = [row | {"dataset": "cars"} for row in _points()]
    assert "figure_4_without_small_sets" not in metric_report(MetricFindings(5, points, [], [], [])).tables
    planted = [row | {"dataset": "pcam", "cler": 1 - row["cler"]} for row in _points()]
    tables = metric_report(MetricFindings(5, [*points, *planted], [], [], [])).tables
    kept = {row["score"]: row for row in tables["figure_4_without_small_sets"]}
    most = max(row["shots"] for row in points)
    assert kept["cler"]["n"] == sum(row["shots"] == most and row["source"] == "generative" for row in points)
    assert kept["cler"]["pearson"] == pytest.approx(1)
    assert {row["score"]: row for row in tables["figure_4"]}["cler"]["pearson"] < 0.9


def test_correlations_at_equal_shots_are_also_shown_within_each_group():
    rows = metric_report(MetricFindings(5, _points(), [], [], [])).tables["figure_4_at_equal_shots"]
    groups = {row["group"] for row in _points()}
    assert {(row["shots"], row["group"]) for row in rows} == {
        (shots, group) for shots in {row["shots"] for row in _points()} for group in {"all", *groups}
    }


def test_times_are_means_and_say_how_much_longer_the_probe_takes():
    rows = times(_points())
    assert {row["shots"] for row in rows} == {5, 20, "all"}
    cler = next(row for row in rows if row["metric"] == "cler" and row["shots"] == "all")
    assert cler["seconds"] == pytest.approx(0.01)
    assert cler["probe_ratio"] == pytest.approx(100)


def test_times_on_a_gpu_stand_beside_those_of_the_processor():
    timed = [
        row | {f"gpu_seconds_{name}": 0.001 for name in ("cler", "clip_score", "retrieval", "fid")} for row in _points()
    ]
    rows = times([row | {"gpu_seconds_linear_probe": 0.05} for row in timed])
    assert all(row["gpu_probe_ratio"] == pytest.approx(50) for row in rows if row["metric"] != "linear_probe")
    assert all("gpu_seconds" not in row for row in times(_points()))


def test_every_metric_is_timed_on_features_that_are_on_the_device():
    metrics = [metric for metric in (*proxy_metrics(), LINEAR_PROBE) if metric.compute]
    seconds = device_seconds(metrics, made_up_inputs(), "cpu")
    assert set(seconds) == {metric.timed_as for metric in metrics}
    assert all(taken > 0 for taken in seconds.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="is refused without a GPU alone")
def test_a_gpu_that_is_not_there_is_told_before_anything_starts(parts: dict[str, Any]):
    with pytest.raises(ValueError, match="time_on_gpu needs a GPU"):
        run_metrics(
            MetricsConfig(**parts | {"time_on_gpu": True, "shots": (2,), "compare_shots": 2, "other_encoders": ()})
        )


def test_recall_is_counted_class_by_class():
    found = recall_by_class(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 3)
    assert found[:2].tolist() == [0.5, 0.5]
    assert np.isnan(found[2])


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_inceptions_features_are_made_once_by_workers(
    parts: dict[str, Any], inception_weights: Path, monkeypatch: pytest.MonkeyPatch
):
    config = MetricsConfig(
        **parts,
        sources=("original",),
        shots=(2,),
        compare_shots=2,
        seeds=(0,),
        other_encoders=(),
        inception=inception_weights,
    )
    with monkeypatch.context() as patch:
        forbid_inception(patch)
        (point,) = run_metrics(config).tables["points"]
        workspace = Workspace.open(config.workspace, create=False)
        made = rows_by_inception(workspace)
        assert run_metrics(config).tables["points"] == [point]
        assert rows_by_inception(workspace) == made == workspace.count()
    study = MetricStudy(config)
    (test,), (train,) = study.test_plans.values(), study.plans["original"].values()
    assert images_with_features(workspace, inception_weights) == {*plan_ids(test), *plan_ids(train)}
    assert workspace.verify().sound  # features are no embeddings, so their norm is not checked
    assert point["fid_features"] == "inception/pt_inception.safetensors"
    expected = fid_by_hand(workspace, inception_weights, plan_ids(test), plan_ids(train))
    assert point["fid"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare_shots": 7}, "compare shots 7 is not among the shots"),
        ({"nearest_captions": 0}, "nearest captions 0"),
        ({"strategies": ("defined",)}, "unknown prompt strategy"),
        ({"other_encoders": ("mini-clap",), "shots": (1,), "compare_shots": 1}, "unknown encoder 'mini-clap'"),
        ({"inception": Path("/nowhere.pth"), "shots": (1,), "compare_shots": 1}, "not a safetensors file"),
    ],
)
def test_bad_input_is_one_sentence(parts: dict[str, Any], changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run_metrics(MetricsConfig(**(parts | changes)))
    assert "\n" not in str(caught.value)
    assert not Path(parts["workspace"]).exists()
