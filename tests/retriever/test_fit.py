"""What a head learns from, and the training loop on one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.retriever.data import RetrieverData, choose_validation
from engine.retriever.fit import Fit, TrainingConfig, fit_head

CONFIG = TrainingConfig(epochs=4, batch_size=16, hidden=32, learning_rate=3e-3, keep_epochs=(1, 3))


def make_data(classes: int = 6, texts: int = 8, images: int = 10, dimension: int = 16) -> RetrieverData:
    """Classes whose texts and images are clusters that point to different places."""
    random = np.random.default_rng(0)

    def around(centres: np.ndarray, num: int) -> np.ndarray:
        rows = np.repeat(centres, num, axis=0) + 0.3 * random.normal(size=(classes * num, dimension))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    image_class = np.repeat(np.arange(classes), images)
    text_class = np.repeat(np.arange(classes), texts)
    return RetrieverData(
        encoder="clip@1",
        text_features=around(random.normal(size=(classes, dimension)), texts),
        text_class=text_class,
        image_features=around(random.normal(size=(classes, dimension)), images),
        image_class=image_class,
        negatives=(np.array([(number + 1) % classes * images for number in text_class])[:, None] + np.arange(3)),
        validation=choose_validation(image_class, 0.2),
    )


@pytest.fixture(scope="module")
def data() -> RetrieverData:
    return make_data()


def test_validation_takes_a_share_of_every_class_and_never_all():
    classes = np.array([0] * 10 + [1] * 5 + [2])
    chosen = choose_validation(classes, 0.2)
    assert [int(chosen[classes == number].sum()) for number in range(3)] == [2, 1, 0]
    assert not choose_validation(classes, 0).any()
    with pytest.raises(ValueError, match="leaves nothing to learn from"):
        choose_validation(classes, 1)


def test_an_epoch_gives_each_text_once_with_an_image_of_its_class_that_is_no_validation_image(data: RetrieverData):
    batches = data.batches(16, 2, seed=0, epoch=0)
    texts = np.concatenate([batch.texts for batch in batches])
    assert sorted(texts) == list(range(48))
    for batch in batches:
        assert (data.image_class[batch.images] == data.text_class[batch.texts]).all()
        assert not data.validation[batch.images].any()
        there = batch.negatives >= 0
        assert not data.validation[batch.negatives[there]].any()
        assert (data.image_class[batch.negatives] != data.text_class[batch.texts][:, None])[there].all()
    again = data.batches(16, 2, seed=0, epoch=0)
    assert all((a.images == b.images).all() for a, b in zip(batches, again, strict=True))
    other = data.batches(16, 2, seed=0, epoch=1)
    assert any((a.images != b.images).any() for a, b in zip(batches, other, strict=True))


def test_the_hardest_negatives_that_are_no_validation_images_come_first(data: RetrieverData):
    validation = np.zeros(60, bool)
    validation[[10, 11]] = True  # the two hardest of class 0
    found = replace(data, validation=validation).training_negatives(2)
    assert found[0].tolist() == [12, -1]
    assert found[8].tolist() == [20, 21]


def test_data_survive_the_way_through_tables_in_any_order(data: RetrieverData):
    texts, images = data.to_tables()
    shuffled = [images.slice(start, 7) for start in (53, 0, 14, 7, 21, 28, 35, 42, 49)]
    shuffled = [pa.concat_tables([shuffled[0].slice(0, 7), images.slice(49, 4)]), *shuffled[1:-1]]
    again = RetrieverData.from_tables(data.encoder, [texts.slice(20), texts.slice(0, 20)], shuffled)
    for name in ("text_features", "text_class", "image_features", "image_class", "negatives", "validation"):
        assert np.array_equal(getattr(again, name), getattr(data, name)), name
    none = replace(data, negatives=np.zeros((48, 0), np.int64)).to_tables()
    assert RetrieverData.from_tables(data.encoder, *([part] for part in none)).negatives.shape == (48, 0)


def test_training_finds_the_classes_and_keeps_the_best_epoch(data: RetrieverData):
    trained = fit_head(data, replace(CONFIG, epochs=12))
    precision = [row["precision_at_1"] for row in trained.curves]
    assert precision[0] < 0.9 < max(precision)
    assert trained.curves[-1]["loss"] < trained.curves[0]["loss"]
    assert trained.head.spec.epoch == 1 + precision.index(max(precision))
    assert sorted(trained.checkpoints) == [1, 3]
    assert trained.checkpoints[3].spec.epoch == 3
    assert trained.head.spec.training["num_negatives"] == 1


def test_patience_stops_training_and_no_validation_split_gives_the_last_epoch(data: RetrieverData):
    stopped = fit_head(data, replace(CONFIG, epochs=40, patience=3))
    assert len(stopped.curves) == stopped.head.spec.epoch + 3 < 40
    blind = fit_head(replace(data, validation=np.zeros(60, bool)), replace(CONFIG, patience=1))
    assert (len(blind.curves), blind.head.spec.epoch) == (4, 4)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(data: RetrieverData, tmp_path: Path):
    whole = fit_head(data, CONFIG)
    first = Fit(data, CONFIG)
    first.run_epoch()
    first.run_epoch()
    first.save(tmp_path)
    second = Fit(data, CONFIG)
    second.restore(tmp_path)
    resumed = second.run()
    assert resumed.head.name == whole.head.name
    assert {key: head.name for key, head in resumed.checkpoints.items()} == {
        key: head.name for key, head in whole.checkpoints.items()
    }
    assert [(row["loss"], row["precision_at_1"]) for row in resumed.curves] == [
        (row["loss"], row["precision_at_1"]) for row in whole.curves
    ]


def test_reflective_negatives_end_up_farther_from_their_texts():
    """Where classes are many and batches small, so that a hard class is seldom in a text's batch by chance."""
    data = make_data(classes=60, texts=4, images=6)
    negatives = data.training_negatives(2)
    there = negatives >= 0

    def nearness(num_negatives: int) -> float:
        head = fit_head(data, replace(CONFIG, epochs=8, batch_size=8, num_negatives=num_negatives)).head
        vectors = head.embed(data.image_features)[negatives]
        return float((data.text_features[:, None] * vectors).sum(axis=2)[there].mean())

    assert nearness(2) < nearness(0) - 0.01


def test_training_leaves_the_callers_random_numbers_alone(data: RetrieverData):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit_head(data, replace(CONFIG, epochs=1))
    assert torch.rand(1) == expected


def test_what_cannot_be_trained_is_refused_in_one_sentence(data: RetrieverData):
    with pytest.raises(ValueError, match="all texts are of one class"):
        make_data(classes=1)
    with pytest.raises(ValueError, match="class 0 has texts and no image"):
        replace(data, image_class=data.image_class + 1)
    with pytest.raises(ValueError, match="embed both with the same encoder"):
        replace(data, image_features=data.image_features[:, :8])
    with pytest.raises(ValueError, match="negatives name images that are not there"):
        replace(data, negatives=data.negatives + 60)
    with pytest.raises(ValueError, match="no texts or no images"):
        replace(data, image_features=data.image_features[:0])
    with pytest.raises(ValueError, match="negatives has 1 rows"):
        replace(data, negatives=data.negatives[:1])
    with pytest.raises(ValueError, match="realrag needs reflective negatives"):
        fit_head(replace(data, negatives=np.full((48, 1), -1)), CONFIG)
    with pytest.raises(ValueError, match="cannot be shared out to 3 workers"):
        Fit(data, CONFIG, world_size=3)
    for wrong, said in (
        ({"epochs": 0}, "epochs is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"batch_size": 1}, "a batch of one text"),
        ({"num_negatives": -1}, "cannot be negative"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_head(data, replace(CONFIG, **wrong))


def test_negatives_are_mined_anew_by_the_head_as_it_is(data: RetrieverData):
    generated = data.image_features[data.negatives[:, 0]].copy()  # each looks like an image of the next class
    generated[3] = 0  # failed
    drawn = replace(data, generated=generated)
    config = replace(CONFIG, num_negatives=2, remine=True)
    fit = Fit(drawn, config)
    fit.run_epoch()
    found = fit._mined_anew()
    assert found.shape == (48, 2)
    assert (found[3] == -1).all()
    there = np.delete(found, 3, axis=0)
    assert not data.validation[there].any()
    assert (data.image_class[there] != np.delete(data.text_class, 3)[:, None]).all()
    images, queries = fit.head.embed(data.image_features), fit.head.embed(generated)
    for row in (0, 20, 47):
        allowed = np.flatnonzero(~data.validation & (data.image_class != data.text_class[row]))
        assert found[row].tolist() == allowed[np.argsort(-(images[allowed] @ queries[row]))[:2]].tolist()
    again, once = fit_head(drawn, config), fit_head(data, replace(config, remine=False))
    assert again.curves[0]["loss"] == once.curves[0]["loss"]
    assert again.curves[-1]["loss"] != once.curves[-1]["loss"]
    with pytest.raises(ValueError, match="hold no generated images' embeddings; give them, or leave remine out"):
        Fit(data, config)
    assert np.array_equal(
        RetrieverData.from_tables("clip@1", *[[table] for table in drawn.to_tables()]).generated, generated
    )
    with pytest.raises(ValueError, match="give one embedding a text"):
        replace(data, generated=generated[:5])
