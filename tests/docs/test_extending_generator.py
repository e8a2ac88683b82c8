"""The guide to a new generator works as written: its blocks are executed in order, on tiny models."""

import re
from pathlib import Path

import pytest

from engine.models import generator_names, generator_spec, generators
from engine.models.registry import VARIABLE
from engine.models.spec import GeneratorSpec
from engine.testing import generators as tiny_generators

GUIDE = Path(__file__).parents[2] / "docs" / "extending" / "generator.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the guide, in a file of the user's own."""
    (tmp_path / "my-registry.toml").write_text("\n".join(blocks("toml")))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "my-registry.toml"))


@pytest.mark.usefixtures("registry")
def test_both_ways_to_add_a_generator_keep_the_contract(monkeypatch: pytest.MonkeyPatch):
    known, adapter, saver, new = blocks("python")
    assert {"my-xl", "pixart-sigma"} <= set(generator_names())
    names: dict[str, object] = {}
    exec(known, names)
    with pytest.raises(ValueError, match="pipeline class 'PixArtSigmaPipeline' is not supported"):
        generator_spec("pixart-sigma")
    exec(adapter, names)
    exec(saver, names)
    # the two rows that the guide asks for
    monkeypatch.setattr(generators, "ADAPTERS", (*generators.ADAPTERS, names["PixArtSigma"]))
    monkeypatch.setitem(tiny_generators.SAVERS, "PixArtSigmaPipeline", names["save_pixart_sigma"])
    exec(new, names)


@pytest.mark.usefixtures("registry")
def test_the_contract_notices_an_adapter_that_is_wrong(monkeypatch: pytest.MonkeyPatch):
    known, adapter, saver, new = blocks("python")
    names: dict[str, object] = {}
    exec(known.replace("check_generator(", "print("), names)
    exec(re.sub("^ +self.check_length.*$", "", adapter, flags=re.MULTILINE), names)
    exec(saver, names)
    monkeypatch.setattr(generators, "ADAPTERS", (*generators.ADAPTERS, names["PixArtSigma"]))
    monkeypatch.setitem(tiny_generators.SAVERS, "PixArtSigmaPipeline", names["save_pixart_sigma"])
    with pytest.raises(AssertionError, match="no ValueError was raised; expected one that matches 'the prompt has"):
        exec(new, names)


def test_the_guide_names_files_fields_and_promises_that_exist():
    text = GUIDE.read_text("utf-8")
    root = GUIDE.parents[2]
    paths = re.findall(r"`((?:engine|tests|jobs)/[\w/]+\.(?:py|toml))`", text)
    assert len(set(paths)) >= 6
    assert [path for path in paths if not (root / path).is_file()] == []
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (root / "engine" / "models" / "generators" / name).is_file(), name
    known = set(GeneratorSpec.__dataclass_fields__)
    fields = {line.partition(" =")[0] for block in blocks("toml") for line in block.splitlines() if " = " in line}
    assert fields <= known
