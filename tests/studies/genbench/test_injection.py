"""Textual Inversion from the references to Table 3, on tiny real models."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from engine.store import Workspace
from engine.studies.genbench import injection_rows
from engine.studies.genbench.injection import InjectionConfig, InjectionStudy, run_injection
from engine.studies.genbench.injection_rows import by_knowledge, claims, gains, table_3, verdict
from engine.studies.genbench.injection_sheets import sheet
from engine.studies.genbench.tradeoff import GenBenchConfig, run_genbench
from engine.studies.injection import InjectionSettings
from engine.testing.data import write_dataset

SMALL = InjectionSettings(
    preset="mini",
    originals=2,
    candidates=4,
    most_retrieved=3,
    least_retrieved=1,
    filter="none",
    steps=2,
    categories_per_batch=2,
    allow_small=True,
)


@pytest.fixture
def study(parts: dict[str, Any], tiny_encoder: str) -> dict[str, Any]:
    return parts | {
        "inject": SMALL,
        "shots": (1, 2),
        "seeds": (0, 1),
        "judge": tiny_encoder,
        "judge_images": 2,
        "judged_shots": 2,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": ()}, "references is empty; give at least one"),
        ({"references": ("orignal",)}, "unknown source of references 'orignal'; did you mean original"),
        ({"shots": (0,)}, "shots 0 is not a number of images"),
        ({"low_resolution": -1}, "low_resolution is -1; give pixels"),
        ({"judge": "mini-jugde"}, "unknown encoder 'mini-jugde'; did you mean mini-judge"),
        ({"inject": InjectionSettings(originals=0)}, "inject.originals is 0; give 1 or more"),
        ({"inject": InjectionSettings(preset="papr")}, "unknown preset 'papr'; did you mean paper"),
        ({"inject": InjectionSettings(threshold=3.0)}, "inject.threshold 3.0 is no cosine"),
        ({"inject": InjectionSettings(least_retrieved=40)}, "inject.least-retrieved is more than"),
        ({"inject": InjectionSettings(steps=0)}, "steps of the inversion is 0"),
        ({"generator": "flux-schnell"}, "takes no learned tokens; choose a Stable Diffusion 1, 2 or XL generator"),
        ({"inject": InjectionSettings(originals=100)}, "fewer than 100 shots"),
    ],
)
def test_bad_input_is_one_sentence(study: dict[str, Any], changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        run_injection(InjectionConfig(**study | changes))
    assert "\n" not in str(caught.value)
    assert not Path(study["workspace"]).exists()


def test_a_judge_must_have_images_that_are_no_references(study: dict[str, Any], tmp_path: Path):
    few = write_dataset(tmp_path / "few", ("red apple", "blue boat"), train=2)
    config = InjectionConfig(**study | {"datasets": (str(few),), "references": ("original",)})
    with pytest.raises(ValueError, match=r"has no training image of class .* beside the references"):
        InjectionStudy(config).check()


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_table_3_from_references_to_pictures(study: dict[str, Any], tmp_path: Path):
    config = InjectionConfig(**study, tokens=tmp_path / "tokens")
    report = run_injection(config)
    workspace = Workspace.open(config.workspace, create=False)
    tokens = workspace.read("tokens").to_pylist()
    # of 3 classes and 2 seeds: from 2 sources, and from shrunken originals of the first seed
    assert len(tokens) == 3 * 2 * 2 + 3
    assert len({row["fitted_from"] for row in tokens}) == len(tokens)
    assert {len(row["reference_ids"]) for row in tokens if row["source"] == "original"} == {2}
    assert {len(row["reference_ids"]) for row in tokens if row["source"] == "retrieval"} == {3}
    images = workspace.fetch(
        [row.as_py() for batch in workspace.scan(["id"], "source = 'injected'") for row in batch.column("id")],
        ["revision", "prompt", "class_name"],
    ).to_pylist()
    assert len(images) == 3 * 2 * 2 * 2 + 3 * 2
    by_hash = {row["fitted_from"]: row for row in tokens}
    for row in images:
        token = by_hash[row["revision"].split("+token@")[1]]
        assert token["token"] in row["prompt"]
        assert token["class_name"] == row["class_name"]

    tables = report.tables
    assert [(row["shots"], row["knowledge"]) for row in tables["table_3"]] == [
        (0, "references alone"),
        *((shots, name) for shots in (1, 2) for name in ("none", "retrieval", "original")),
    ]
    assert all(0 <= row["judged"] <= 1 for row in tables["injection"] if row["knowledge"] != "references alone")
    by_name = {(row["knowledge"], row["shots"], row["seed"]): row for row in tables["injection"]}
    for source in ("retrieval", "original"):
        made = by_name[source, 2, 0]
        assert made["usd_fit"] > 0
        assert made["usd_busy"] > made["usd_fit"]
    # three classes with two labelled originals each, which cost more than all else
    assert by_name["original", 2, 0]["usd_busy"] == pytest.approx(6 * 0.012, rel=0.05)
    assert {row["references"] for row in tables["figure_8"]} == {"originals", "originals shrunk to 8x8 pixels"}
    ledger = [row for row in workspace.ledger().to_pylist() if row["stage"] == "inject"]
    assert sum(row["rows"] for row in ledger) == len(tokens)
    assert sum(row["busy_seconds"] for row in ledger) == pytest.approx(sum(row["device_seconds"] for row in tokens))
    fetched = sum(row["reference_bytes"] for row in tokens if row["source"] == "retrieval")
    assert sum(row["fetched_bytes"] for row in ledger) == fetched > 0
    read = [row for row in workspace.ledger().to_pylist() if (row["stage"], row["source"]) == ("make", "retrieval")]
    assert sum(row["fetched_bytes"] for row in read) > 0
    assert {sheet.title.split(": ")[1] for sheet in report.sheets} == {"Figure 7", "Figure 8", "Figures 11 and 12"}
    assert json.loads((config.report / "report.json").read_text())["tables"]["table_3"]

    files = sorted(
        path.relative_to(tmp_path / "tokens").as_posix() for path in (tmp_path / "tokens").rglob("*.safetensors")
    )
    assert len(files) == 12
    assert files[0].endswith("original-0/blue boat.safetensors")
    with safe_open(tmp_path / "tokens" / files[0], "pt") as file:
        assert [name.split()[-1] for name in file.keys()] == ["boat|>"]  # noqa: SIM118

    # all is found again: nothing is learned or made twice, and another class of settings learns anew
    count = workspace.count()
    again = run_injection(config)
    assert Workspace.open(config.workspace).count() == count
    assert Workspace.open(config.workspace).read("tokens").num_rows == len(tokens)
    assert again.tables["table_3"] == tables["table_3"]

    # another study generates with the tokens that are there
    more = {key: value for key, value in study.items() if not key.startswith("judge")} | {
        "sources": ("generative", "injected")
    }
    other = run_genbench(GenBenchConfig(**more))
    assert {row["source"] for row in other.tables["tradeoff"]} == {"generative", "injected"}
    assert Workspace.open(config.workspace).count() == count


def rows_of(cler: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    return [
        {"dataset": "d", "group": "g", "knowledge": name, "shots": 5 if name != "references alone" else 0, "seed": seed}
        | {"cler": value, "linear_probe": value, "judged": value, "usd_per_image": 1.0}
        for name, values in cler.items()
        for seed, value in enumerate(values)
    ]


def test_gains_are_paired_by_seed_and_called_by_two_standard_errors():
    rows = rows_of({"none": (0.5, 0.1, 0.3), "original": (0.6, 0.25, 0.42), "retrieval": (0.4, 0.2, 0.3)})
    found = gains(rows, "cler")
    assert found["original", 5, "d"] == pytest.approx([10, 15, 12])
    assert verdict(found["original", 5, "d"]) == "gains"
    assert verdict(found["retrieval", 5, "d"]) == "no clear change"
    assert verdict([-3.0, -4.0]) == "loses"
    assert verdict([0.0, 0.0]) == "no clear change"
    assert verdict([9.0]) == "one seed"


def test_the_table_and_its_sentences_say_what_the_rows_say():
    rows = rows_of({"none": (0.5, 0.1), "original": (0.6, 0.25), "references alone": (0.9, 0.9)})
    table = table_3(rows)
    assert [(row["knowledge"], row["mean cler"]) for row in table] == [
        ("references alone", "90.0 ± 0.0"),
        ("none", "30.0 ± 28.3"),
        ("original", "42.5 ± 24.7"),
    ]
    lines = claims(rows)
    assert lines[0].startswith("Tokens from original references, 5 shots, points of CLER: d gains (+12.5 ± 3.5)")
    assert "d 90.0% against 42.5%" in lines[-1]


def test_classes_are_told_apart_by_what_their_names_give():
    rows = [
        {
            "dataset": "d",
            "class_name": name,
            "knowledge": knowledge,
            "judged": judged,
            "tokens": int(knowledge != "none"),
        }
        for name, values in {"a": (0.9, 0.6), "b": (0.1, 0.5)}.items()
        for knowledge, judged in zip(("none", "original"), values, strict=True)
    ]
    found = {(row["classes_are"], row["knowledge"]): row for row in by_knowledge(rows)}
    assert found["not known", "original"]["gain_points"] == pytest.approx(40)
    assert found["known by name", "original"]["gain_points"] == pytest.approx(-30)
    assert found["known by name", "original"]["classes_with_token"] == 1


def test_a_sheet_has_a_line_per_kind_and_keeps_gaps(parts: dict[str, Any]):
    study = InjectionStudy(InjectionConfig(**parts, judge="", shots=(1,), references=("original",), inject=SMALL))
    workspace = Workspace.open(parts["workspace"])
    (dataset,) = study.datasets
    found = sheet(
        workspace, dataset, "Figure 7: of nothing", {"by name": ["", "no such id"], "token": ["", ""]}, ["a", "b"]
    )
    assert found.per_row == 2
    assert found.captions == ["a: by name", "b: by name", "a: token", "b: token"]
    assert found.images == [b""] * 4


def test_the_papers_known_threshold_is_a_half():
    assert injection_rows.KNOWN_FROM == 0.5
