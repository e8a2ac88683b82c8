from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog import Dataset, load_dataset
from engine.models.prompt_weights import read_weights
from engine.prompts import Materials, make_prompt, strategy_name, strategy_names


def dataset(name: str, class_names: tuple[str, ...], templates: tuple[str, ...]) -> Dataset:
    return Dataset(name, "own", "accuracy", "nowhere", class_names, templates)


CIFAR10 = dataset(
    "cifar10",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    (
        "a photo of the {c}.",
        "a photo of the big {c}.",
        "a good photo of the {c}.",
        "a black and white photo of the {c}.",
    ),
)
PETS = dataset(
    "pets",
    ("British Shorthair", "Bombay", "boxer", "leonberger", "Persian", "Siamese"),
    ("a photo of a {c}, a type of pet.",),
)
CARS = dataset(
    "cars",
    ("Acura TL Sedan 2012", "Audi V8 Sedan 1994", "Bentley Arnage Sedan 2009"),
    ("a photo of my {c}.", "a photo of my old {c}.", "a photo of my clean {c}.", "a photo of my new {c}."),
)
AIRCRAFT = dataset(
    "fgvc_aircraft",
    ("737-400", "737-800", "747-100", "757-200", "767-200", "IL-76"),
    ("a photo of a {c}, a type of aircraft.",),
)
GTSRB = dataset(
    "gtsrb",
    ("red and white circle no truck entry", "empty red and white circle"),
    ("a centered photo of a {c}, a traffic sign.", "a close up photo of a {c}, a traffic sign."),
)
TABLE_6_RD = ", ((sharp focus)), ((highly detailed)), ((hires))"


def prompts(strategy: str, data: Dataset) -> list[str]:
    return [make_prompt(strategy, data, 0, index).text for index in range(len(data.templates))]


# GenBench Table 6, first class of each set. "in 2012" of its second car row is no template of CLIP's: the name is.
@pytest.mark.parametrize(
    ("strategy", "data", "row"),
    [
        ("class_name", CIFAR10, "airplane"),
        ("class_name", PETS, "British Shorthair"),
        ("class_name", CARS, "Acura TL Sedan 2012"),
        ("class_name", AIRCRAFT, "737-400"),
        ("class_name", GTSRB, "red and white circle no truck entry"),
        ("defined_template", CIFAR10, "a black and white photo of the airplane."),
        ("defined_template", PETS, "a photo of a British Shorthair, a type of pet."),
        ("defined_template", CARS, "a photo of my old Acura TL Sedan 2012."),
        ("defined_template", AIRCRAFT, "a photo of a 737-400, a type of aircraft."),
        ("defined_template", GTSRB, "a close up photo of a red and white circle no truck entry, a traffic sign."),
        ("restrictive_description", CIFAR10, "a photo of the big airplane." + TABLE_6_RD),
        ("restrictive_description", PETS, "a photo of a British Shorthair, a type of pet." + TABLE_6_RD),
        ("restrictive_description", CARS, "a photo of my clean Acura TL Sedan 2012." + TABLE_6_RD),
        ("restrictive_description", AIRCRAFT, "a photo of a 737-400, a type of aircraft." + TABLE_6_RD),
        (
            "restrictive_description",
            GTSRB,
            "a close up photo of a red and white circle no truck entry, a traffic sign." + TABLE_6_RD,
        ),
        ("negative_prompts", CIFAR10, "a good photo of the airplane."),
        ("negative_prompts", CARS, "a photo of my new Acura TL Sedan 2012."),
        ("negative_prompts", GTSRB, "a centered photo of a red and white circle no truck entry, a traffic sign."),
    ],
)
def test_rows_of_table_6(strategy: str, data: Dataset, row: str):
    assert row in prompts(strategy, data)


def test_negative_prompts_of_table_6():
    assert make_prompt("negative_prompts", PETS, 0, 0).negative == "Bombay, boxer, leonberger, Persian, Siamese"
    assert make_prompt("negative_prompts", AIRCRAFT, 0, 0).negative == "737-800, 747-100, 757-200, 767-200, IL-76"
    assert make_prompt("negative_prompts", GTSRB, 0, 0).negative == "empty red and white circle"
    assert make_prompt("negative_prompts", CARS, 1, 0).negative == "Acura TL Sedan 2012, Bentley Arnage Sedan 2009"


def test_the_simple_template_is_section_2_3s():
    assert prompts("simple_template", CIFAR10) == ["a photo of airplane"] * 4


def test_five_of_many_categories_are_drawn_and_all_are_equally_likely():
    drawn = [make_prompt("negative_prompts", CIFAR10, 3, index, seed=1).negative.split(", ") for index in range(900)]
    assert all(len(set(names)) == 5 for names in drawn)
    assert drawn == [
        make_prompt("negative_prompts", CIFAR10, 3, index, seed=1).negative.split(", ") for index in range(900)
    ]
    counts = {name: sum(name in names for names in drawn) for name in CIFAR10.class_names}
    assert counts.pop("cat") == 0
    assert all(430 < count < 570 for count in counts.values()), counts  # 500 expected, standard deviation 15


def test_defined_templates_come_once_each_and_then_by_chance(tiny_dataset: Path):
    things = load_dataset(str(tiny_dataset))
    made = [make_prompt("defined_template", things, 0, index, seed=3).text for index in range(40)]
    assert made[:2] == ["a photo of red apple.", "a drawing of red apple."]
    assert set(made[2:]) == set(made[:2])
    assert made == [make_prompt("defined_template", things, 0, index, seed=3).text for index in range(40)]
    assert made != [make_prompt("defined_template", things, 0, index, seed=4).text for index in range(40)]


def test_category_enhancement_takes_the_classes_sentences():
    sentences = {"pets": [["A cat sits (still).", "A cat runs."], *[["other"]] * 5]}
    made = [make_prompt("category_enhancement", PETS, 0, index, 0, Materials(sentences)).text for index in range(30)]
    assert made[:2] == ["A cat sits \\(still\\).", "A cat runs."]
    assert set(made[2:]) == set(made[:2])
    with pytest.raises(ValueError, match="no sentences of cars"):
        make_prompt("category_enhancement", CARS, 0, 0, 0, Materials(sentences))


def test_retrieval_augmented_takes_the_classes_images():
    materials = Materials(references={"pets": [["id-0", "id-1"], *[["other"]] * 5]})
    made = [make_prompt("retrieval_augmented", PETS, 0, index, 0, materials) for index in range(30)]
    assert [prompt.reference_id for prompt in made[:2]] == ["id-0", "id-1"]
    assert {prompt.reference_id for prompt in made[2:]} == {"id-0", "id-1"}
    assert made[0].text == "a photo of a British Shorthair, a type of pet."
    with pytest.raises(ValueError, match="no reference images for cars"):
        make_prompt("retrieval_augmented", CARS, 0, 0, 0, materials)


def test_strategies_combine_as_in_table_2():
    assert strategy_name("negative_prompts") == "defined_template+negative_prompts"
    both = "defined_template+negative_prompts+restrictive_description"
    assert strategy_name("restrictive_description+negative_prompts") == strategy_name(both) == both
    prompt = make_prompt("simple_template+restrictive_description+negative_prompts", GTSRB, 1, 0)
    assert prompt.text == "a photo of empty red and white circle" + TABLE_6_RD
    assert prompt.negative == "red and white circle no truck entry"


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("simple", "did you mean simple_template"),
        ("defined_template+negative_prompt", "did you mean negative_prompts"),
        ("simple_template+defined_template", "joins simple_template and defined_template"),
        ("negative_prompts+negative_prompts", "names negative_prompts twice"),
    ],
)
def test_a_strategy_that_cannot_be_says_why(strategy: str, message: str):
    with pytest.raises(ValueError, match=message):
        strategy_name(strategy)


def test_the_only_class_has_no_negative_prompt():
    with pytest.raises(ValueError, match="needs another class"):
        make_prompt("negative_prompts", dataset("one", ("cat",), ("{c}",)), 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.integers(0, 9), st.sampled_from([name for name in strategy_names() if "_" in name]))
def test_brackets_of_a_class_name_are_no_weights(name: str, index: int, strategy: str):
    data = dataset("signs", (name, f"other {name}"), ("a {c} sign",))
    data = replace(data, prompts=((f"some {name}",), ("another",)))
    materials = Materials({"signs": [[f"some {name}"]] * 2}, {"signs": [["id"]] * 2})
    prompt = make_prompt(strategy, data, 0, index, 0, materials)
    read = read_weights(prompt.text)
    assert name in read.text
    assert {read.weights[place] for place in range(read.text.index(name), len(name))} <= {1.0}
    assert read_weights(prompt.negative).is_plain
