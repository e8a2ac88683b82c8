import numpy as np
import pytest
import torch

from engine.evaluation import finetune_score
from engine.models import load_encoder
from engine.testing.data import class_image


def _images(each: int, first: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    images = [class_image(label, first + number) for number in range(each) for label in range(3)]
    pixels = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]
    return pixels, torch.arange(3).repeat(each)


def _pixels(images: list[torch.Tensor]):
    return lambda rows: [images[row] for row in rows]


@pytest.fixture
def parts(tiny_encoder: str):
    encoder = load_encoder(tiny_encoder)
    texts = np.random.default_rng(0).normal(size=(3, 2, encoder.dimension)).astype(np.float32)
    return encoder, texts


def _score(parts, train, labels, **options):
    encoder, texts = parts
    test, truth = _images(10, first=100)
    return finetune_score(encoder, (_pixels(train), labels), (_pixels(test), truth), texts, **options)


def test_the_tower_learns_what_its_text_does_not_say(parts):
    encoder, _ = parts
    train, labels = _images(5)
    before = encoder.encode_images(train)
    result = _score(parts, train, labels, learning_rates=(1e-6, 1e-3))
    assert result.score > 0.9
    assert result.learning_rate == 1e-3  # 1e-6 hardly moves a head that points nowhere
    assert 1 <= result.epochs <= 10
    assert torch.equal(encoder.encode_images(train), before)  # a copy is trained


def test_the_same_seed_gives_the_same_score_and_one_shot_holds_nothing_out(parts):
    train, labels = _images(2)
    options = {"learning_rates": (1e-4,), "max_epochs": 2, "seed": 3}
    assert _score(parts, train, labels, **options) == _score(parts, train, labels, **options)
    alone = _score(parts, train[:3], labels[:3], max_epochs=1)
    assert (alone.validation_score, alone.learning_rate, alone.epochs) == (None, 1e-5, 5)


def test_several_labels_and_no_images_are_one_sentence(parts):
    train, labels = _images(2)
    with pytest.raises(ValueError, match="one label per image"):
        _score(parts, train, torch.nn.functional.one_hot(labels, 3))
    with pytest.raises(ValueError, match="train_labels is empty"):
        _score(parts, [], labels[:0])
