"""Safety checkers of both libraries, saved with save_pretrained and loaded by the production path."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models.safety import PREFIX, SafetyChecker, checker_names, describe_checker
from engine.testing.models import save_classifier, save_concept_checker


def images(seed: int = 5) -> tuple[list[torch.Tensor], np.ndarray]:
    """Noisy images of several sizes, the odd ones bright."""
    random = np.random.default_rng(seed)
    is_bright = np.arange(11) % 2 == 1
    found = [random.integers(200 if one else 0, 256 if one else 50, (3, 24 + n, 40)) for n, one in enumerate(is_bright)]
    return [torch.from_numpy(image.astype(np.uint8)) for image in found], is_bright


@pytest.fixture(scope="module", params=["classifier", "concepts"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checker")
    return save_classifier(place / "vit") if request.param == "classifier" else save_concept_checker(place / "sd")


def labels_of(folder: Path) -> tuple[str, ...]:
    return ("nsfw",) if folder.name == "vit" else ()


def test_what_the_model_is_made_to_flag_has_a_high_score(folder: Path):
    checker = SafetyChecker(describe_checker(str(folder), labels_of(folder)))
    pictures, is_bright = images()
    scores = checker.score(pictures)
    assert scores.dtype == np.float32
    assert ((scores >= 0.5) == is_bright).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    if folder.name == "vit":
        opposite = SafetyChecker(describe_checker(str(folder), ("normal",))).score(pictures)
        assert np.allclose(scores + opposite, 1, atol=1e-6)


def test_a_score_does_not_depend_on_the_other_images(folder: Path):
    checker = SafetyChecker(describe_checker(str(folder), labels_of(folder)), batch_size=4)
    pictures, _ = images()
    alone = [float(checker.score([picture])[0]) for picture in pictures]
    assert checker.score(pictures).tolist() == alone
    assert checker.score(pictures[::-1]).tolist() == alone[::-1]
    assert checker.score([]).shape == (0,)


def test_every_revision_and_choice_of_labels_has_a_column_of_its_own(tmp_path: Path):
    first = describe_checker(str(save_classifier(tmp_path / "vit")), ("nsfw",))
    other = describe_checker(str(save_classifier(tmp_path / "b" / "vit", seed=1)), ("nsfw",))
    both = describe_checker(first.source, ("normal", "nsfw"))
    assert len({first.column, other.column, both.column}) == 3
    assert first.column == f"{PREFIX}vit_{first.revision[:8]}_nsfw"
    assert first.name == f"vit@{first.revision[:8]} (nsfw)"


def test_labels_are_asked_for_and_checked(tmp_path: Path):
    place = str(save_classifier(tmp_path / "vit", ("fine", "gore")))
    with pytest.raises(ValueError, match="has the labels 'fine', 'gore'; say which are unsafe with --flag LABEL"):
        describe_checker(place)
    with pytest.raises(ValueError, match=r"unknown label .* 'gor'; did you mean gore"):
        describe_checker(place, ("gor",))
    with pytest.raises(ValueError, match="has no labels, only yes or no; leave out --flag"):
        describe_checker(str(save_concept_checker(tmp_path / "sd")), ("nsfw",))


def test_pickles_code_of_a_repository_and_unknown_names_are_refused(tmp_path: Path):
    place = save_classifier(tmp_path / "vit")
    config = json.loads((place / "config.json").read_text())
    odd = config | {"model_type": "of-my-own", "auto_map": {"AutoConfig": "evil.Config"}}
    (place / "config.json").write_text(json.dumps(odd))
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\n")
    with pytest.raises(ValueError, match=r"safety checker .* could not be loaded"):
        describe_checker(str(place), ("nsfw",))
    assert not (tmp_path / "ran").exists()
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights"):
        describe_checker(str(place), ("nsfw",))
    with pytest.raises(ValueError, match="unknown safety checker 'nfsw'; did you mean nsfw"):
        describe_checker("nfsw")
    assert "nsfw" in checker_names()
