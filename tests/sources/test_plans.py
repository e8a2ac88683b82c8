from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog import Dataset, load_dataset
from engine.evaluation import class_embeddings
from engine.models import GeneratorSpec, ImageEncoder, generator_spec, load_encoder
from engine.prompts import Materials
from engine.sources import (
    ConcatenatedPlan,
    GenerativePlan,
    OriginalPlan,
    RetrievalPlan,
    ShotIds,
    load_pool,
    retrieval,
    shot_ids,
)
from engine.sources.retrieval import class_queries, class_text_features
from engine.testing.data import class_image, encode, multi_hot, write_dataset, write_shards

SPEC = GeneratorSpec(name="mini", pipeline="", source="nowhere", reference_modes={"img2img": 0.4})


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> Dataset:
    return load_dataset(str(tiny_dataset))


@pytest.fixture(scope="module")
def encoder(tiny_encoder: str) -> ImageEncoder:
    return load_encoder(tiny_encoder)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 3), st.sampled_from(["simple_template", "defined_template"]))
def test_no_two_generated_recipes_are_alike_and_shots_nest(shots: int, seed: int, strategy: str):
    things = Dataset("things", "own", "accuracy", "nowhere", ("cat", "dog", "car"), ("a {c}", "the {c}"))
    plan = GenerativePlan(things, SPEC, strategy, shots, seed)
    ids = [plan[index].id for index in range(len(plan))]
    assert len(set(ids)) == len(ids) == 3 * shots
    larger = GenerativePlan(things, SPEC, strategy, shots + 5, seed)
    assert [larger[index].id for index in range(len(plan))] == ids
    assert [plan[index].class_index for index in range(3)] == [0, 1, 2]


def test_shot_ids_are_the_plans_own(dataset: Dataset):
    plan = GenerativePlan(dataset, SPEC, "simple_template", 4)
    ids = ShotIds(plan)
    for _ in range(2):
        assert [list(each) for each in ids] == [[plan[shot * 3 + label].id for shot in range(4)] for label in range(3)]
    assert ids[2][-1] == plan[11].id
    for wrong in (lambda: ids[3], lambda: ids[0][4]):
        with pytest.raises(IndexError):
            wrong()


def test_a_strategys_materials_reach_the_recipe(dataset: Dataset):
    references = ShotIds(GenerativePlan(dataset, SPEC, "simple_template", 2))
    materials = Materials(references={dataset.name: references})
    plan = GenerativePlan(
        dataset, SPEC, "retrieval_augmented", 3, 0, materials, reference_mode="img2img", reference_scale=0.5
    )
    assert [plan[index].reference_id for index in range(3)] == [references[index][0] for index in range(3)]
    assert (plan[0].reference_mode, plan[0].reference_scale) == ("img2img", 0.5)
    assert plan[0].strategy == "defined_template+retrieval_augmented"
    plain = GenerativePlan(dataset, SPEC, "simple_template", 3, 0, materials, "img2img", 0.5)
    assert (plain[0].reference_id, plain[0].reference_mode, plain[0].reference_scale) == ("", "", 0.0)


def test_another_seed_generates_other_images(dataset: Dataset):
    plans = [GenerativePlan(dataset, SPEC, "simple_template", 20, seed) for seed in (0, 1)]
    assert not {plans[0][index].id for index in range(60)} & {plans[1][index].id for index in range(60)}


def test_original_shots_are_the_classes_own_images(dataset: Dataset):
    plan = OriginalPlan(dataset, 8, seed=1)
    index = dataset.index("train")
    labels = dict(zip(index.keys.tolist(), index.texts.tolist(), strict=True))
    assert all(
        labels[plan[number].key] == str(plan[number].class_index) == str(number % 3) for number in range(len(plan))
    )
    assert len({plan[number].id for number in range(len(plan))}) == 24
    fewer = OriginalPlan(dataset, 3, seed=1)
    assert [fewer[number] for number in range(9)] == [plan[number] for number in range(9)]


def test_another_seed_draws_other_originals_and_equal_ones_keep_their_id(dataset: Dataset):
    one, other = OriginalPlan(dataset, 3, seed=0), OriginalPlan(dataset, 3, seed=1)
    assert [one[number].key for number in range(9)] != [other[number].key for number in range(9)]
    everything = {OriginalPlan(dataset, 8, seed=2)[number].id for number in range(24)}
    assert {one[number].id for number in range(9)} | {other[number].id for number in range(9)} <= everything


def test_more_shots_than_images_are_refused(dataset: Dataset):
    with pytest.raises(ValueError, match=r"things has 8 train images of class .*, fewer than 9 shots; ask for fewer"):
        OriginalPlan(dataset, 9)


@pytest.fixture
def uneven(tmp_path: Path) -> Dataset:
    """Four images of class a, one of b, two of c."""
    folder = write_dataset(tmp_path / "uneven", ("a", "b", "c"))
    labels = "aaaabcc"
    write_shards(folder / "train", [(b"x%d" % n, str("abc".index(c))) for n, c in enumerate(labels)], shards=2)
    return load_dataset(str(folder))


def test_fewer_images_than_shots_are_taken_when_allowed(uneven: Dataset):
    with pytest.raises(ValueError, match=r"uneven has 1 train images of class 'b', fewer than 3 shots; .* allow fewer"):
        OriginalPlan(uneven, 3)
    plan = OriginalPlan(uneven, 5, allow_fewer=True)
    assert [plan[number].class_index for number in range(len(plan))] == [0, 1, 2, 0, 2, 0, 0]
    assert [plan.num_recipes(shots) for shots in range(7)] == [0, 3, 5, 6, 7, 7, 7]
    assert len({plan[number].key for number in range(7)}) == 7
    assert plan.labels.tolist() == [0, 1, 2, 0, 2, 0, 0]
    assert [number for _, number in shot_ids(plan, 1, 3)] == [0, 2, 0]
    fewer = OriginalPlan(uneven, 2, allow_fewer=True)
    assert [fewer[number] for number in range(len(fewer))] == [plan[number] for number in range(5)]


def test_every_plan_says_how_many_recipes_a_number_of_shots_has(
    dataset: Dataset, encoder: ImageEncoder, tiny_pool: Path
):
    plans = (
        GenerativePlan(dataset, SPEC, "simple_template", 4),
        OriginalPlan(dataset, 4),
        RetrievalPlan(dataset, load_pool(str(tiny_pool), encoder), np.zeros((3, 16), np.float32), 4),
    )
    for plan in plans:
        assert [plan.num_recipes(shots) for shots in (0, 1, 4, 9)] == [0, 3, 12, 12]
        assert list(shot_ids(plan, 0, 1)) == [(plan[number].id, number) for number in range(3)]


def test_an_image_with_several_labels_may_be_drawn_for_each(tmp_path: Path):
    folder = write_dataset(tmp_path / "several", ("a", "b"))
    (folder / "dataset_type.txt").write_text("multilabel\n")
    for split, rows in (("train", [(1, 0), (1, 1), (0, 1)]), ("test", [(0, 1), (1, 1), (0, 0)])):
        samples = [(encode(class_image(number, 0)), multi_hot(row)) for number, row in enumerate(rows)]
        write_shards(folder / split, samples, "npy")
    several = load_dataset(str(folder))
    plan = OriginalPlan(several, 2)
    assert [plan[number].class_index for number in range(4)] == [0, 1, 0, 1]
    assert len({plan[number].id for number in range(4)}) == 4
    assert len({plan[number].key for number in range(4)}) == 3
    assert all(plan.labels[number, plan[number].class_index] == 1 for number in range(4))
    test = OriginalPlan(several, None, split="test")
    assert test.labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert [test[number].class_name for number in range(3)] == ["b", "a", ""]


def test_a_set_without_training_images_has_no_original_data(dataset: Dataset):
    test_only = replace(dataset, name="sun397", test_only=True)
    with pytest.raises(ValueError, match="sun397 has test images only, so there is no original data to train on"):
        OriginalPlan(test_only, 1)
    assert len(OriginalPlan(test_only, None, split="test")) == 12


def test_the_test_plan_is_the_whole_split(dataset: Dataset):
    plan = OriginalPlan(dataset, None, split="test")
    assert len(plan) == 12
    assert {plan[number].split for number in range(12)} == {"test"}
    assert sorted(plan[number].class_index for number in range(12)) == sorted([0, 1, 2] * 4)


def test_retrieval_takes_the_nearest_captions_first(dataset: Dataset, encoder: ImageEncoder, tiny_pool: Path):
    pool = load_pool(str(tiny_pool), encoder)
    texts = encoder.encode_texts(["a nice red apple 1", "a nice green tree 0", "a nice blue boat 2"])
    plan = RetrievalPlan(dataset, pool, texts, 5)
    assert [plan[number].prompt for number in range(3)] == [
        "a nice red apple 1",
        "a nice green tree 0",
        "a nice blue boat 2",
    ]
    for number in range(3):
        found = [float(encoder.encode_texts([plan[shot * 3 + number].prompt])[0] @ texts[number]) for shot in range(5)]
        assert found == sorted(found, reverse=True)
    assert len({plan[number].id for number in range(len(plan))}) == 15
    assert plan.search_seconds_per_image > 0


def test_more_shots_than_the_pool_has_are_refused(dataset: Dataset, encoder: ImageEncoder, tiny_pool: Path):
    pool = load_pool(str(tiny_pool), encoder)
    with pytest.raises(ValueError, match=r"pool .* has 40 images, fewer than 41 shots"):
        RetrievalPlan(dataset, pool, np.zeros((3, 16), np.float32), 41)


def test_captions_are_embedded_once(encoder: ImageEncoder, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_pool(str(tiny_pool), encoder)
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: pytest.fail("the captions were embedded again"))
    assert (load_pool(str(tiny_pool), encoder).captions == first.captions).all()


def test_an_empty_pool_is_refused(encoder: ImageEncoder, tmp_path: Path):
    write_shards(tmp_path / "train", [], suffix="txt")
    with pytest.raises(ValueError, match="no captioned image"):
        load_pool(str(tmp_path), encoder)


def test_plans_stand_one_after_the_other():
    plan = ConcatenatedPlan([range(3), range(0), range(10, 14)])
    assert [plan[index] for index in range(len(plan))] == [0, 1, 2, 10, 11, 12, 13]
    assert len(ConcatenatedPlan([])) == 0
    for index in (-1, 7):
        with pytest.raises(IndexError):
            plan[index]


def test_a_generator_without_guidance_gets_some_where_there_is_a_negative_prompt(tiny_dataset: Path):
    plain, negative = (
        GenerativePlan(load_dataset(str(tiny_dataset)), generator_spec("mini"), strategy, 1)[0]
        for strategy in ("defined_template", "negative_prompts")
    )
    assert (plain.negative_prompt, plain.guidance_scale) == ("", 1.0)
    assert negative.negative_prompt
    assert negative.guidance_scale == 2.0


def test_class_texts_are_embedded_once_and_are_the_encoders_own(
    dataset: Dataset, encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
):
    texts = [template.replace("{c}", name) for name in dataset.class_names for template in dataset.templates]
    own = encoder.encode_texts(texts).reshape(len(dataset.class_names), len(dataset.templates), -1)
    first = class_text_features(encoder, dataset), class_queries(encoder, dataset)
    assert np.array_equal(first[0], own)
    assert np.array_equal(first[1], class_embeddings(own).numpy())
    retrieval._class_texts.cache_clear()  # as in another process
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: pytest.fail("the class texts were embedded again"))
    again = class_text_features(encoder, dataset), class_queries(encoder, dataset)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_another_encoder_or_another_class_name_is_embedded_anew(
    dataset: Dataset, encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch
):
    class_text_features(encoder, dataset)
    embedded: list[list[str]] = []
    own = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: embedded.append(list(texts)) or own(texts))
    retrieval._class_texts.cache_clear()
    class_text_features(encoder, replace(dataset, class_names=("red apple", "green tree", "blue ship")))
    retrieval._class_texts.cache_clear()
    monkeypatch.setattr(encoder, "name", "retrained@01234567")
    class_text_features(encoder, dataset)
    assert len(embedded) == 2
    retrieval._class_texts.cache_clear()


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]) | st.floats(-1, 1, width=32), min_size=1, max_size=40),
    st.data(),
)
def test_the_nearest_are_those_of_a_stable_sort(values: list[float], data: st.DataObject):
    rows = np.array(values, np.float32)
    num = data.draw(st.integers(1, len(values)))
    assert retrieval._largest(rows, num).tolist() == np.argsort(-rows, kind="stable")[:num].tolist()
