"""Every generator of the registry makes a set end to end: the job's own command line, plans, makers, table and report.

Each has a tiny twin in a folder, given as `--generator NAME --generator.source FOLDER`. The workers that draw are shared, as
starting them for each generator alone would take minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro

from engine.dataflow.run import Run
from engine.dataflow.stages import Embed
from engine.models import generator_names, generator_spec
from engine.models.generators import adapter_of
from engine.recipe import Recipe
from engine.sources import ConcatenatedPlan, Generates, GeneratorMaker, MakerBySource
from engine.sources.make import Made
from engine.store import Workspace
from engine.studies.genbench.tradeoff import GenBench, GenBenchConfig
from engine.testing import generators as tiny_generators
from engine.testing.twins import image_size, small_references

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster")]


@dataclass
class MakerByGenerator(Generates):
    """Hands each recipe to its generator's own maker, so that one pool of actors serves them all."""

    makers: dict[str, GeneratorMaker]
    rows_per_call: int = 3
    gpus_per_actor: float = 1.0
    _device: str = ""
    _loaded: set[str] = field(default_factory=set)

    def load(self, device: str) -> None:
        self._device = device

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        made: dict[int, Made] = {}
        with small_references():
            for name in dict.fromkeys(recipe.generator for recipe in recipes):
                if name not in self._loaded:
                    self.makers[name].load(self._device)
                    self._loaded.add(name)
                rows = [number for number, recipe in enumerate(recipes) if recipe.generator == name]
                made.update(zip(rows, self.makers[name].make([recipes[row] for row in rows]), strict=True))
        return [made[number] for number in range(len(recipes))]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiny_generators.Saved]:
    """Registry entry → its twin's folder and those of its auxiliaries."""
    folder = tmp_path_factory.mktemp("generators")
    return {name: tiny_generators.save(name, folder / name) for name in generator_names()}


@pytest.fixture
def config(
    tmp_path: Path, tiny_dataset: Path, tiny_pool: Path, tiny_encoder: str, twins: dict[str, tiny_generators.Saved]
) -> Callable[[str], GenBenchConfig]:
    """Registry entry → what the job makes of its command line."""

    def parse(name: str) -> GenBenchConfig:
        augmented = adapter_of(generator_spec(name).pipeline).needs_reference
        flags: dict[str, object] = {
            "datasets": tiny_dataset,
            "sources": "generative",
            "generator": name,
            "generator.source": twins[name]["source"],
            "generator.steps": 2,
            "generator.size": image_size(generator_spec(name)),
            "strategy": "defined_template" + ("+retrieval_augmented" if augmented else ""),
            "encoder": tiny_encoder,
            "pool": tiny_pool,
            "shots": 1,
            "batch-size": 2,
            "workspace": tmp_path / "workspace",
            "report": tmp_path / name,
        }
        arguments = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
        if auxiliaries := twins[name]["auxiliaries"]:
            arguments += ["--generator.auxiliaries", *(f"{key}={value}" for key, value in auxiliaries.items())]
        return tyro.cli(GenBenchConfig, args=arguments)

    return parse


def test_every_generator_makes_its_set(config: Callable[[str], GenBenchConfig], tmp_path: Path):
    studies = {name: GenBench(config(name)) for name in generator_names()}
    workspace = Workspace.open(str(tmp_path / "workspace"))
    read, drawn, makers = [], [], {}
    for name, study in studies.items():
        study.check()
        (_, first, reader), (_, _, maker) = (work := list(study.work()))[0], work[-1]
        makers[name] = maker.makers["generative"] if isinstance(maker, MakerBySource) else maker
        drawn += study.plans["generative"].values()
        if len(work) == 2:
            read.append((first, reader))
    # the longest holds what the others read, and the reference images besides
    longest, reader = max(read, key=lambda pair: len(pair[0]))
    one = studies["sd21"]
    stages = [Embed.of(one.encoder)]
    with Run(workspace, one.prices, None, {}) as run:
        run.fill("read", longest, reader, stages)
        result = run.fill("generate", ConcatenatedPlan(drawn), MakerByGenerator(makers), stages)
    assert [(error["generator"], error["reason"]) for error in workspace.errors().to_pylist()] == []
    assert (result.made, result.errors) == (3 * len(studies), 0)
    for name, study in studies.items():
        (plan,) = study.plans["generative"].values()
        ids = [plan[index].id for index in range(3)]
        rows = workspace.fetch(ids, ["generator", "height", "dtype", "reference_mode"]).to_pylist()
        side = image_size(generator_spec(name))
        assert [(row["generator"], row["height"]) for row in rows] == [(name, side)] * 3
        assert {row["reference_mode"] for row in rows} == {plan[0].reference_mode}
    for name in ("sd21", "emu2", "glide", "qwen-image-edit"):
        report = studies[name].build_report(workspace)
        assert report.tables["errors"] == []
        (row,) = report.tables["tradeoff"]
        assert (row["images"], row["shots"]) == (3, 1)
        assert row["usd_busy"] > 0
        assert report.write(tmp_path / name).is_file()
