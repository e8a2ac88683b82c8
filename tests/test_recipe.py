import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.recipe import IMAGE_SCHEMA, RECIPE_SCHEMA, Recipe, embedding_column, image_schema

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.integers(0, 2**63 - 1)
SCALE = st.floats(allow_nan=False, allow_infinity=False)
RECIPES = st.builds(
    Recipe,
    **{field.name: {str: TEXT, int: NUMBER, float: SCALE}[field.type] for field in fields(Recipe)},
)
APPLE = Recipe(
    source="generative", dataset="mini-common", class_index=0, class_name="apple", prompt="a photo of apple", seed=7
)


@given(RECIPES, RECIPES)
def test_equal_recipes_and_only_they_have_equal_ids(one: Recipe, other: Recipe):
    assert (one == other) == (one.id == other.id)


@given(RECIPES)
def test_a_row_gives_its_recipe_back(recipe: Recipe):
    row = {**recipe.as_dict(), "image": b"", "id": recipe.id}
    assert Recipe.from_dict(row) == recipe
    assert Recipe.from_dict(row).id == recipe.id


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_field_counts(name: str):
    value = getattr(APPLE, name)
    changed = replace(APPLE, **{name: value + "x" if isinstance(value, str) else value + 1})
    assert changed.id != APPLE.id


def test_an_id_is_the_same_in_another_process_and_for_ever():
    code = f"from engine.recipe import Recipe; print(Recipe(**{APPLE.as_dict()!r}).id)"
    ids = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert ids == {APPLE.id} == {"3297053ee53c05f61e22692800ac409f"}


def test_a_field_left_at_its_default_does_not_enter_the_id():
    assert b"reference_id" not in APPLE.canonical()
    assert replace(APPLE, reference_id="").id == APPLE.id


def test_equal_numbers_of_different_types_are_one_recipe():
    assert replace(APPLE, guidance_scale=3).id == replace(APPLE, guidance_scale=3.0).id
    assert replace(APPLE, guidance_scale=-0.0).id == replace(APPLE, guidance_scale=0.0).id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guidance_scale", float("nan")),
        ("guidance_scale", "3"),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", True),
        ("prompt", None),
        ("seed", 1.0),
    ],
)
def test_values_that_no_row_can_hold_are_refused_by_name(field: str, value: object):
    with pytest.raises(ValueError, match=f"recipe field {field} is"):
        replace(APPLE, **{field: value})


def test_the_row_begins_with_the_recipe_and_embeddings_come_last():
    assert IMAGE_SCHEMA.names[: len(RECIPE_SCHEMA.names)] == RECIPE_SCHEMA.names
    assert RECIPE_SCHEMA.names == ["id", *(field.name for field in fields(Recipe))]
    assert embedding_column("ViT-B-32/openai") == "embedding_vit_b_32_openai"
    assert image_schema({"mini-clip": 64}).field("embedding_mini_clip").type.list_size == 64
