"""`imagefoundry check-safety` over a small table, and the stage by itself."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.cli.main import main
from engine.dataflow.safety import SafetyCheck
from engine.dataflow.stages import Stages
from engine.export.audit import AuditConfig, audit
from engine.models.safety import SafetyChecker, describe_checker
from engine.store import Workspace
from engine.studies.safety import SafetyConfig, check_safety
from engine.testing.models import save_classifier
from tests.export.helpers import every_kind, fill


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_classifier(tmp_path_factory.mktemp("checker") / "vit"))


def test_the_stage_adds_the_checkers_scores_and_gives_a_reason_for_none(checker: str, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    random = np.random.default_rng(0)
    pictures = [torch.from_numpy(random.integers(0, 256, (3, 20 + n, 30), np.uint8)) for n in range(3)]
    stage = SafetyCheck(describe_checker(checker, ("nsfw",)))
    ids = [f"{number:032x}" for number in range(3)]
    found = Stages([pickle.loads(pickle.dumps(stage))], "cpu").run_on(ids, {None: pictures})
    scores = found.columns[stage.facts.column].to_pylist()
    assert scores == SafetyChecker(stage.facts).score(pictures).tolist()
    assert stage.columns.field(0).metadata == {b"checker": stage.facts.name.encode()}

    broken = save_classifier(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    stage = SafetyCheck(describe_checker(str(broken), ("nsfw",)))
    found = Stages([stage], "cpu").run_on(ids, {None: pictures})
    assert len(found.kept) == 0
    assert {reason for _, reason in found.reasons.values()} == {"the safety score is not finite"}


@pytest.mark.cluster
def test_images_without_a_score_get_one_and_an_audit_counts_them(tmp_path: Path, cluster: None, checker: str, capsys):
    filled = fill(tmp_path / "workspace", every_kind()[:12])
    place, facts = filled.workspace.uri, describe_checker(checker, ("nsfw",))
    ids = sorted(filled.rows)
    filled.workspace.ensure_columns(SafetyCheck(facts).columns)
    known = pa.table({"id": ids[:3], facts.column: pa.array([0.125] * 3, pa.float32())})
    filled.workspace.fill_columns(known)

    assert main(["check-safety", place, "--checker", checker, "--flag", "nsfw", "--batch-size", "4"]) == 0
    assert f"9 of 12 images checked now by {facts.name}" in capsys.readouterr().out
    table = Workspace.open(place).fetch(ids, [facts.column])
    found = dict(zip(table["id"].to_pylist(), table[facts.column].to_pylist(), strict=True))
    assert [found[one] for one in ids[:3]] == [0.125] * 3
    pictures = [torch.from_numpy(np.moveaxis(filled.pixels(one), 2, 0).copy()) for one in ids[3:]]
    expected = SafetyChecker(facts).score(pictures)
    assert np.allclose([found[one] for one in ids[3:]], expected, atol=1e-6)

    middle = float(np.median(expected))
    (counts,) = audit(AuditConfig(place, safety_threshold=middle)).safety
    assert (counts.checked, counts.checker) == (12, facts.name)
    assert counts.flagged == sum(score >= middle for score in found.values())
    again = check_safety(SafetyConfig(place, checker, ("nsfw",)))
    assert (again.images, again.checked, again.flagged) == (12, 0, sum(score >= 0.5 for score in found.values()))


def test_a_wrong_checker_or_condition_is_one_sentence(tmp_path: Path, checker: str):
    place = str(tmp_path / "workspace")
    with pytest.raises(ValueError, match="there is no workspace"):
        check_safety(SafetyConfig(place, checker, ("nsfw",)))
    Workspace.open(place)
    with pytest.raises(ValueError, match="is no condition on the images"):
        check_safety(SafetyConfig(place, checker, ("nsfw",), where="clas = 1"))
    with pytest.raises(ValueError, match="unknown safety checker"):
        check_safety(SafetyConfig(place, "nsw"))
    with pytest.raises(ValueError, match="batch size is 0"):
        check_safety(SafetyConfig(place, checker, ("nsfw",), batch_size=0))
