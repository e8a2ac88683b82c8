"""Every part of prompt strategies, and strategies as objects."""

import pytest

from engine.prompts import Base, Materials, Modifier, PromptRequest, Strategy, strategy_names
from engine.prompts.strategy import BASES, MODIFIERS
from engine.testing.contracts import BRACKETS, check_strategy_part

PARTS = [*BASES, *MODIFIERS]


@pytest.mark.parametrize("part", PARTS, ids=strategy_names())
def test_a_part_fulfils_the_contract(part: Base | Modifier) -> None:
    check_strategy_part(part)


@pytest.mark.parametrize(
    ("strategy", "sentences", "references"),
    [
        ("defined_template+negative_prompts", False, False),
        ("category_enhancement", True, False),
        ("retrieval_augmented", False, True),
        ("category_enhancement+retrieval_augmented", True, True),
    ],
)
def test_a_strategy_says_what_its_parts_need(strategy: str, sentences: bool, references: bool) -> None:
    parsed = Strategy.parse(strategy)
    assert (parsed.needs_sentences, parsed.needs_references) == (sentences, references)
    materials = Materials(
        {BRACKETS.name: [["a sentence"]] * 3} if sentences else {}, {BRACKETS.name: [["id"]] * 3} if references else {}
    )
    assert parsed.prompt(PromptRequest(BRACKETS, 0, 0, 0, materials)).text
    if sentences or references:
        with pytest.raises(ValueError, match="has no"):
            parsed.prompt(PromptRequest(BRACKETS, 0, 0, 0))


def test_a_parsed_strategy_has_its_one_name() -> None:
    parsed = Strategy.parse("restrictive_description+negative_prompts")
    assert parsed.name == "defined_template+negative_prompts+restrictive_description"
    assert Strategy.parse(parsed.name) == parsed
