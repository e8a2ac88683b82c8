from pathlib import Path

import pytest

from engine.catalog import load_dataset
from engine.prompts import make_prompt, strategy_names


def test_the_simple_template_is_the_papers(tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    assert {make_prompt("simple_template", dataset, 1, index).text for index in range(5)} == {"a photo of green tree"}


def test_defined_templates_come_once_each_and_then_by_chance(tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    prompts = [make_prompt("defined_template", dataset, 0, index, seed=3).text for index in range(40)]
    assert prompts[:2] == ["a photo of red apple.", "a drawing of red apple."]
    assert set(prompts[2:]) == set(prompts[:2])
    assert prompts == [make_prompt("defined_template", dataset, 0, index, seed=3).text for index in range(40)]
    assert prompts != [make_prompt("defined_template", dataset, 0, index, seed=4).text for index in range(40)]


def test_an_unknown_strategy_brings_the_nearest(tiny_dataset: Path):
    assert strategy_names() == ["simple_template", "defined_template"]
    with pytest.raises(ValueError, match="did you mean simple_template"):
        make_prompt("simple", load_dataset(str(tiny_dataset)), 0, 0)
