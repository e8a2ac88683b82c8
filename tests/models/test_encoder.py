import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from engine.models import ImageEncoder, encoder_names, load_encoder
from tests.tiny import class_image


@pytest.fixture(scope="module")
def encoder(tiny_encoder: str) -> ImageEncoder:
    return load_encoder(tiny_encoder, batch_size=4)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def test_embeddings_have_unit_norm(encoder: ImageEncoder):
    images = encoder.encode_images([as_tensor(class_image(0, number)) for number in range(6)])
    assert images.shape == (6, encoder.dimension) == (6, 16)
    assert torch.allclose(images.norm(dim=1), torch.ones(6))
    texts = encoder.encode_texts(["a cat", "a dog", "a cat"])
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert (texts[0] == texts[2]).all()
    assert not np.allclose(texts[0], texts[1])
    assert encoder.encode_texts([]).shape == (0, 16)


def test_an_embedding_does_not_depend_on_its_company(encoder: ImageEncoder):
    pixels = [as_tensor(class_image(0, number)) for number in range(7)]
    together = encoder.encode_images(pixels)
    for number in (0, 4, 6):
        assert torch.equal(encoder.encode_images([pixels[number]])[0], together[number])


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (31, 90), (8, 8), (1, 1)])
def test_preprocessing_is_open_clips(tiny_encoder: str, encoder: ImageEncoder, shape: tuple[int, int]):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tiny_encoder}")
    theirs = preprocess(Image.fromarray(pixels))
    ours = encoder._normalise(encoder._resize(as_tensor(pixels))[None])[0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 4.01 / 255 / 0.25  # PIL rounds each pass of its resize to whole levels
    assert (ours - theirs).abs().mean() <= 0.5 / 255 / 0.25


def test_unknown_encoders_bring_the_nearest():
    assert "mini-clip" in encoder_names()
    with pytest.raises(ValueError, match=r"unknown encoder 'mini-clap'; did you mean mini-clip"):
        load_encoder("mini-clap")
    with pytest.raises(ValueError, match=r"did you mean .*ViT-B-32/openai"):
        load_encoder("ViT-B-32/opanai")


def test_pickled_and_missing_weights_are_refused(tiny_encoder: str, tmp_path: Path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        load_encoder(str(folder))
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="pickled weights"):
        load_encoder(str(folder))


def test_weights_that_do_not_fit_are_one_sentence(tiny_encoder: str, tmp_path: Path):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 48
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="could not be loaded") as caught:
        load_encoder(str(folder))
    assert "\n" not in str(caught.value)


def test_out_of_memory_halves_the_batch(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch):
    encoder = load_encoder(tiny_encoder, batch_size=8)
    real = encoder._model.encode_image

    def at_most_two(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    images = [as_tensor(class_image(0, number)) for number in range(5)]
    expected = encoder.encode_images(images)
    monkeypatch.setattr(encoder._model, "encode_image", at_most_two)
    assert torch.allclose(encoder.encode_images(images), expected, atol=1e-5)
    assert encoder.batch_size == 2
    monkeypatch.setattr(
        encoder._model, "encode_image", lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode_images(images)


def test_retrained_weights_are_another_encoder(tiny_encoder: str, encoder: ImageEncoder, tmp_path: Path):
    from tests import tiny

    other = load_encoder(str(tiny.save_encoder(tmp_path / "encoder", seed=1)))
    assert encoder.name.startswith("encoder@")
    assert other.name.startswith("encoder@")
    assert other.name != encoder.name
    assert load_encoder(tiny_encoder).name == encoder.name
