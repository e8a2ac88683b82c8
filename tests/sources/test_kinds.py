"""Every row of SOURCE_KINDS."""

from typing import Any

import pytest

from engine.models.inversion.tokens import token_names
from engine.sources.injected import TokenRef
from engine.sources.kinds import SOURCE_KINDS, PlanRequest, find_source, source_kind, source_order
from engine.studies.genbench.tradeoff import GenBench, GenBenchConfig
from engine.studies.injection import TokenSet
from engine.testing.contracts import check_source
from tests.studies.conftest import parts as parts

NAMES = [kind.name for kind in SOURCE_KINDS]


@pytest.mark.parametrize("name", NAMES)
def test_a_source_fulfils_the_contract(parts: dict[str, Any], name: str) -> None:
    kind = source_kind(name)
    study = GenBench(GenBenchConfig(**parts, shots=(2,)))
    strategy = "defined_template" if kind.is_generated else ""
    if kind.learns_tokens:
        names = token_names("things", study.datasets[0].class_names)
        tokens: list[TokenRef | None] = [TokenRef(f"{number:032x}", name) for number, name in enumerate(names)]
        study.injector.sets["things", 0, "original"] = TokenSet(tokens, [], [])
    check_source(kind, PlanRequest(study.datasets[0], 2, 0, strategy, study))


def test_sources_are_told_apart() -> None:
    for values in ("name", "label", "colour", "dark_colour", "marker"):
        assert len({getattr(kind, values) for kind in SOURCE_KINDS}) == len(SOURCE_KINDS)
    assert NAMES == ["generative", "injected", "retrieval", "original"]


def test_a_name_that_is_no_source_is_said_or_comes_last() -> None:
    with pytest.raises(ValueError, match="unknown source 'generativ'; did you mean generative"):
        source_kind("generativ")
    assert find_source("mixed") is None
    assert sorted(["mixed", "original", "generative"], key=source_order) == ["generative", "original", "mixed"]
