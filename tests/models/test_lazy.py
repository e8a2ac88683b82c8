"""An encoder that is loaded when it is first used."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models import ImageEncoder, lazy, load_encoder
from engine.models.lazy import LazyEncoder
from engine.testing.data import class_image


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "load_encoder", lambda *_, **__: pytest.fail("the encoder was loaded"))


@pytest.mark.parametrize("source", ["mini-clip", "mini-judge", "tiny"])
def test_name_and_dimension_are_those_of_the_loaded_one(source: str, tiny_encoder: str):
    source = tiny_encoder if source == "tiny" else source
    loaded, waiting = load_encoder(source, batch_size=4), LazyEncoder(source, batch_size=4)
    for name in ("source", "name", "device", "batch_size", "dimension"):
        assert getattr(waiting, name) == getattr(loaded, name)
    assert "_model" not in vars(waiting)


@pytest.mark.usefixtures("never_loaded")
def test_what_the_folder_tells_needs_no_weights(tiny_encoder: str):
    encoder = LazyEncoder(tiny_encoder)
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.source, encoder.device, encoder.dimension) == (tiny_encoder, "cpu", 16)
    assert encoder.name.startswith("encoder@")
    assert hash(encoder) == hash(encoder)
    assert not hasattr(encoder, "__wrapped__")
    assert copy.copy(encoder).name == encoder.name


def test_it_encodes_as_the_loaded_one_and_loads_once(tiny_encoder: str, monkeypatch: pytest.MonkeyPatch):
    loaded, times = load_encoder(tiny_encoder, batch_size=4), []
    monkeypatch.setattr(lazy, "load_encoder", lambda *a, **k: times.append(a) or load_encoder(*a, **k))
    encoder = LazyEncoder(tiny_encoder, batch_size=4)
    pixels = [torch.from_numpy(class_image(0, number).copy()).permute(2, 0, 1) for number in range(3)]
    assert np.array_equal(encoder.encode_texts(["a cat", "a dog"]), loaded.encode_texts(["a cat", "a dog"]))
    assert torch.equal(encoder.encode_images(pixels), loaded.encode_images(pixels))
    assert torch.equal(encoder.prepare(pixels), loaded.prepare(pixels))
    assert (encoder.logit_scale, encoder.dimension) == (loaded.logit_scale, loaded.dimension)
    assert len(times) == 1
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = encoder.absent


def test_a_folder_without_weights_is_refused_at_once(tmp_path: Path):
    with pytest.raises(ValueError, match="has no weights"):
        LazyEncoder(str(tmp_path))
    with pytest.raises(ValueError, match="unknown encoder 'mini-clap'"):
        LazyEncoder("mini-clap")


def test_no_library_is_loaded_before_it_is_used():
    code = (
        "import sys; from engine.models.lazy import LazyEncoder; encoder = LazyEncoder('mini-clip');"
        "assert encoder.name and encoder.dimension; print([n for n in ('torch', 'open_clip') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"
