import json
from pathlib import Path
from typing import Any

import pytest

from engine.catalog import Dataset, load_dataset
from engine.catalog.written_prompts import with_prompts
from engine.prompts import make_prompt
from tests.catalog.trees import write_files

CARS = Dataset("cars", "fine", "accuracy", "nowhere", ("Acura TL", "Audi (TT)"), ("a {c}.",))
WALL, ROOF = "A Cybertruck is speeding along the Great Wall.", "A volocopter 2x (an air taxi) parked on the roof."


def write(folder: Path, content: Any) -> Path:
    path = folder / "prompts.json"
    path.write_text(json.dumps(content))
    return path


def test_novel_objects_take_the_prompts_of_a_file(tmp_path: Path):
    write_files(tmp_path / "web", [f"{name}/{n}.jpg" for name in ("Cybertruck", "volocopter_2x") for n in range(5)])
    novel = load_dataset(f"novel={tmp_path / 'web'}")
    assert (novel.name, novel.group, novel.class_names) == ("novel", "novel", ("Cybertruck", "volocopter 2x"))
    path = write(tmp_path, {"volocopter 2x": [ROOF], "cybertruck": [WALL, "A Cybertruck at night."]})
    plain, given = with_prompts([CARS, novel], path)
    assert (plain, given.prompts) == (CARS, ((WALL, "A Cybertruck at night."), (ROOF,)))
    assert [make_prompt("written_prompt", given, 0, shot).text for shot in (0, 1)] == [WALL, "A Cybertruck at night."]
    # brackets are no attention weights
    assert make_prompt("written_prompt", given, 1, 0).text == r"A volocopter 2x \(an air taxi\) parked on the roof."
    with pytest.raises(ValueError, match="written_prompt has no prompts of cars"):
        make_prompt("written_prompt", plain, 0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not of the form"),
        (["a"], "not of the form"),
        ({"Acura TL": []}, "'Acura TL' has no list of prompts"),
        ({"Acura TL": "a car"}, "'Acura TL' has no list of prompts"),
        ({"Acura TL": ["a car", " "]}, "'Acura TL' has no list of prompts"),
        ({"Acura TL": ["a car"]}, r"no prompts of 'Audi \(TT\)', a class of cars"),
        ({"Acura TS": ["a car"]}, "unknown class 'acura ts'; did you mean acura tl"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: Any, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        with_prompts([CARS], write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_class_of_two_data_sets_is_refused(tmp_path: Path):
    other = Dataset("more cars", "fine", "accuracy", "nowhere", ("acura tl",), ("a {c}.",))
    with pytest.raises(ValueError, match="'Acura TL' is a class of cars and more cars"):
        with_prompts([CARS, other], write(tmp_path, {"Acura TL": ["a car"], "Audi (TT)": ["a car"]}))
    with pytest.raises(ValueError, match="cannot be read"):
        with_prompts([CARS], tmp_path / "nowhere.json")
