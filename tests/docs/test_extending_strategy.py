"""A part of a prompt strategy from one file and one row is parsed, planned and stored; ids of other strategies stay."""

import pytest

from engine.models.spec import GeneratorSpec
from engine.prompts import Strategy, strategy
from engine.sources import GenerativePlan, plan_ids
from engine.testing.contracts import BRACKETS
from tests.docs.python_blocks import public_names, python_blocks, run_block

PAGE = "extending/strategy.md"
SPEC = GeneratorSpec(name="mini", pipeline="", source="nowhere")


def test_the_pages_own_tests_pass(monkeypatch: pytest.MonkeyPatch):
    file, test = python_blocks(PAGE)
    tests = run_block(monkeypatch, "test_viewpoint", test, **public_names(run_block(monkeypatch, "viewpoint", file)))
    tests.test_viewpoint_fulfils_the_contract()
    tests.test_every_view_comes_once_before_any_comes_again()


def test_the_row_alone_lets_a_plan_use_it_and_changes_no_other_id(monkeypatch: pytest.MonkeyPatch):
    names = ["simple_template", "defined_template+negative_prompts+restrictive_description"]
    before = [plan_ids(GenerativePlan(BRACKETS, SPEC, name, 4)) for name in names]
    with pytest.raises(ValueError, match="unknown prompt strategy 'viewpoint'"):
        Strategy.parse("viewpoint")
    part = run_block(monkeypatch, "viewpoint", python_blocks(PAGE)[0]).VIEWPOINT
    monkeypatch.setattr(strategy, "MODIFIERS", (*strategy.MODIFIERS, part))
    strategy._parse.cache_clear()
    try:
        plan = GenerativePlan(BRACKETS, SPEC, "viewpoint+negative_prompts", 4)
        assert plan[0].strategy == "defined_template+negative_prompts+viewpoint"
        assert plan[0].prompt == "a cat \\(house\\), seen from the front"
        assert plan[0].negative_prompt == "dog, bird"
        assert [plan_ids(GenerativePlan(BRACKETS, SPEC, name, 4)) for name in names] == before
        assert len(set(plan_ids(plan)) | set(before[0]) | set(before[1])) == 36
        assert not Strategy.parse("viewpoint").needs_references
        assert Strategy.parse("viewpoint+retrieval_augmented").needs_references
    finally:
        strategy._parse.cache_clear()
