"""Injected images: recipes that name a learned token, and a maker that finds it in the workspace."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from engine.catalog import Dataset, load_dataset
from engine.models import GeneratorSpec, generator_spec
from engine.models.inversion.tokens import LearnedToken, token_names
from engine.sources import GenerativePlan, GeneratorMaker
from engine.sources.injected import InjectedPlan, TokenRef, load_tokens, needed_tokens
from engine.store import Workspace

KEYS = ("0" * 32, "1" * 32)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> Dataset:
    return load_dataset(str(tiny_dataset))


@pytest.fixture(scope="module")
def spec(tiny_pipeline: str) -> GeneratorSpec:
    return generator_spec(tiny_pipeline)


def plan_of(dataset: Dataset, spec: GeneratorSpec, strategy: str = "defined_template") -> InjectedPlan:
    names = token_names(dataset.name, dataset.class_names)
    tokens = [TokenRef(KEYS[0], names[0]), TokenRef(KEYS[1], names[1]), None]
    return InjectedPlan(dataset, spec, strategy, 2, tokens=tokens)


def keep(workspace: Workspace, key: str, name: str, width: int = 32) -> None:
    token = LearnedToken(name, {"emb_params": torch.full((1, width), 0.1)})
    row = {
        "fitted_from": key,
        "token": name,
        "dataset": "things",
        "class_index": 0,
        "class_name": "x",
        "generator": "g",
        "revision": "r",
        "source": "original",
        "seed": 0,
        "reference_ids": ["a"],
        "reference_bytes": 1,
        "settings": "{}",
        "losses": [1.0],
        "weights": token.to_bytes(),
        "device_seconds": 1.0,
        "usd_compute": 0.1,
        "run_id": "run",
        "created_at": datetime.now(UTC),
    }
    workspace.add_rows("tokens", pa.Table.from_pylist([row]))


def test_the_token_takes_the_place_of_the_name_and_is_part_of_the_revision(dataset: Dataset, spec: GeneratorSpec):
    plan, plain = plan_of(dataset, spec), GenerativePlan(dataset, spec, "defined_template", 2)
    for index in range(len(plain)):
        mine, named = plan[index], plain[index]
        assert mine.seed == named.seed  # the same noise, so the two are compared image by image
        if mine.class_index == 2:  # without a token, the same image as by name
            assert mine == named
            continue
        key = KEYS[mine.class_index]
        assert (mine.source, mine.revision) == ("injected", f"{named.revision}+token@{key}")
        assert mine.prompt == named.prompt.replace(mine.class_name, f"<|{dataset.name.lower()} {mine.class_name}|>")
        assert mine.id != named.id
    assert needed_tokens(plan[index] for index in range(len(plan))) == set(KEYS)


def test_other_prompts_keep_the_names_of_other_classes(dataset: Dataset, spec: GeneratorSpec):
    recipe = plan_of(dataset, spec, "negative_prompts")[0]
    assert "<|" in recipe.prompt
    assert recipe.negative_prompt
    assert "<|" not in recipe.negative_prompt


def test_the_maker_takes_tokens_from_the_workspace(dataset: Dataset, spec: GeneratorSpec, tmp_path: Path):
    workspace, plan = Workspace.open(tmp_path / "workspace"), plan_of(dataset, spec)
    keep(workspace, KEYS[0], plan[0].prompt.split("of ")[-1].rstrip("."))
    maker = GeneratorMaker(spec, batch_size=2, references=workspace.uri)
    maker.load("cpu")
    made = maker.make([plan[index] for index in range(3)])
    assert [bool(one.reason) for one in made] == [False, True, False]
    assert made[1].reason == f"its learned token {KEYS[1]} is not in the workspace; fit it again"
    named = maker.make([GenerativePlan(dataset, spec, "defined_template", 2)[0]])
    assert not torch.equal(made[0].pixels, named[0].pixels)


def test_a_token_of_another_generator_is_a_reason_and_spares_the_others(
    dataset: Dataset, spec: GeneratorSpec, tmp_path: Path
):
    workspace, plan = Workspace.open(tmp_path / "workspace"), plan_of(dataset, spec)
    keep(workspace, KEYS[0], token_names(dataset.name, dataset.class_names)[0], width=8)
    maker = GeneratorMaker(spec, batch_size=2, references=workspace.uri)
    maker.load("cpu")
    made = maker.make([plan[0], plan[2]])
    assert "fit it for this generator" in made[0].reason
    assert not made[1].reason


def test_a_workspace_of_an_older_release_has_no_tokens(tmp_path: Path):
    workspace = Workspace.open(tmp_path / "workspace")
    assert load_tokens(workspace, []) == {}
    assert load_tokens(workspace, ["no such hash"]) == {}
