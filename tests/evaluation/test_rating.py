import numpy as np
import pyarrow as pa
import pytest

from engine.evaluation.rating import (
    agreement,
    analyse,
    answer_table,
    fleiss_kappa,
    krippendorff_alpha,
    rating_matrix,
    sample_rating_study,
)

CLASSES = ("wedge truck", "robot", "rocket")


def images(method, shots=3, classes=CLASSES):
    return pa.Table.from_pylist(
        [
            {"id": f"{method}-{name}-{shot}", "class_name": name, "prompt": f"a photo of a {name}"}
            for name in classes
            for shot in range(shots)
        ]
    )


METHODS = {name: images(name) for name in ("none", "normal", "realrag")}


def keyed(study):
    return study.items.join(study.key, "item").to_pylist()


def test_a_matching_set_is_one_prompt_drawn_by_every_method():
    study = sample_rating_study("matching", METHODS, num_sets=6)
    rows = keyed(study)
    assert len(rows) == 18
    for number in range(6):
        own = [row for row in rows if row["set"] == number]
        assert sorted(row["method"] for row in own) == ["none", "normal", "realrag"]
        assert len({row["prompt"] for row in own}) == 1
    assert sorted(row["class_name"] for row in rows) == sorted(CLASSES * 6), "each class as often as another"
    assert len({row["image_id"] for row in rows}) == 18
    assert {row["class_name"] for row in keyed(sample_rating_study("matching", METHODS, num_sets=3))} == set(CLASSES)


def test_raters_see_no_method_and_no_fixed_order():
    study = sample_rating_study("matching", METHODS, num_sets=9)
    assert study.items.column_names == ["item", "set", "prompt", "image_id"]
    assert not any(method in item for item in study.items["item"].to_pylist() for method in METHODS)
    orders = {rater: study.order(rater) for rater in ("ann", "bob")}
    assert study.order("ann").equals(orders["ann"])
    assert orders["ann"]["item"].to_pylist() != orders["bob"]["item"].to_pylist()
    method_of = dict(zip(study.key["item"].to_pylist(), study.key["method"].to_pylist(), strict=True))
    firsts = set()
    for order in orders.values():
        sets = order["set"].to_pylist()
        assert all(len(set(sets[at : at + 3])) == 1 for at in range(0, 27, 3)), "a set stays together"
        firsts |= {method_of[order["item"][at].as_py()] for at in range(0, 27, 3)}
    assert firsts == set(METHODS), "no method always comes first"
    assert sorted(orders["ann"]["item"].to_pylist()) == sorted(study.items["item"].to_pylist())


def test_real_or_fake_shows_single_images_in_equal_numbers_by_seed():
    study = sample_rating_study("real_fake", METHODS, num_sets=4, seed=1)
    rows = keyed(study)
    assert sorted(row["set"] for row in rows) == list(range(12))
    assert [sum(row["method"] == name for row in rows) for name in METHODS] == [4, 4, 4]
    assert {row["prompt"] for row in rows} == {""}
    assert sample_rating_study("real_fake", METHODS, num_sets=4, seed=1).items.equals(study.items)
    assert not sample_rating_study("real_fake", METHODS, num_sets=4, seed=2).items.equals(study.items)


@pytest.mark.parametrize(
    ("task", "methods", "num_sets", "sentence"),
    [
        ("ranking", METHODS, 2, "unknown task 'ranking'"),
        ("matching", {"none": images("none")}, 2, "1 methods and 2 sets are too few"),
        ("matching", METHODS, 10, "have 9 sets of images of the same prompt, fewer than 10"),
        (
            "real_fake",
            {"a": images("a"), "b": images("b", classes=("cat",))},
            1,
            "have 0 sets of images of the same class",
        ),
    ],
)
def test_what_makes_no_study_is_refused(task, methods, num_sets, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample_rating_study(task, methods, num_sets)


def answers_to(study, answer):
    rows = keyed(study)
    return answer_table(
        [{"rater": f"r{r}", "item": row["item"], "answer": answer(r, row)} for r in range(5) for row in rows]
    )


def test_means_variances_and_intervals_are_those_of_the_answers():
    study = sample_rating_study("matching", METHODS, num_sets=3)
    worth = {"none": 2, "normal": 4, "realrag": 6}
    answers = answers_to(study, lambda rater, row: worth[row["method"]] + (rater % 3) - 1)
    rows = {row["method"]: row for row in analyse(study, answers).to_pylist()}
    means = np.array([-1, 0, 1, -1, 0])
    for method, middle in worth.items():
        row = rows[method]
        assert (row["raters"], row["answers"]) == (5, 15)
        assert row["mean"] == pytest.approx(middle - 0.2)
        assert row["variance"] == pytest.approx(np.repeat(means, 3).var(ddof=1))
        # Student's t for 4 degrees of freedom at 95 %: 2.776
        reach = 2.776 * means.std(ddof=1) / np.sqrt(5)
        assert [row["t_low"], row["t_high"]] == pytest.approx([middle - 0.2 - reach, middle - 0.2 + reach], abs=1e-3)
        assert row["t_low"] < row["bootstrap_low"] < row["mean"] < row["bootstrap_high"] < row["t_high"]
    assert analyse(study, answers).equals(analyse(study, answers))
    alone = analyse(study, answers.slice(0, 9)).to_pylist()
    assert all(np.isnan(row["t_low"]) for row in alone)


def test_agreement_is_full_where_all_say_the_same():
    for task, answer in (
        ("matching", lambda _, row: len(row["method"]) % 7 + 1),
        ("real_fake", lambda _, row: int(row["method"] > "o")),
    ):
        study = sample_rating_study(task, METHODS, num_sets=3)
        assert agreement(study, answers_to(study, answer)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"rater": "r0", "item": "nonsense", "answer": 1}, "is not part of this study"),
        ({"rater": "new", "item": None, "answer": 8}, "off the scale 1 to 7"),
        ({"rater": "r0", "item": None, "answer": 1}, "answered item '.*' twice"),
    ],
)
def test_answers_that_cannot_be_counted_are_refused(row, sentence):
    study = sample_rating_study("matching", METHODS, num_sets=1)
    row["item"] = row["item"] or study.items["item"][0].as_py()
    answers = pa.concat_tables([answers_to(study, lambda *_: 3), answer_table([row])])
    with pytest.raises(ValueError, match=sentence):
        rating_matrix(study, answers)
    with pytest.raises(ValueError, match="needs a rater, an item and a whole number"):
        answer_table([{"rater": "r0", "item": "x", "answer": "good"}])


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_own_example(level, alpha):
    # four observers, twelve units, some missing: section D of Computing Krippendorff's Alpha-Reliability (2011)
    nan = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
            [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
        ]
    )
    assert krippendorff_alpha(ratings, level) == pytest.approx(alpha, abs=5e-4)
    assert np.isnan(krippendorff_alpha(np.full((3, 4), 5.0), level))


def test_kappa_of_the_textbook_example():
    # fourteen raters, ten subjects, five categories: the worked example of the encyclopaedia's article on Fleiss' kappa
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(ValueError, match="same number of answers"):
        fleiss_kappa(np.array([[1, 1], [2, 1]]))
    assert np.isnan(fleiss_kappa(np.zeros((0, 2))))
