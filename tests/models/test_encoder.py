import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from engine.models import ImageEncoder, encoder_names, load_encoder
from engine.models.faults import DeviceFault
from engine.models.lazy import LazyEncoder
from engine.models.preprocessing import Preprocessing
from engine.testing.data import class_image
from engine.testing.models import clip_tokenizer


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
    ours = encoder.prepare([as_tensor(pixels)])[0]
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

    sizes: list[int] = []

    def at_most_two(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    images = [as_tensor(class_image(0, number)) for number in range(5)]
    expected = encoder.encode_images(images)
    monkeypatch.setattr(encoder._model, "encode_image", at_most_two)
    assert torch.allclose(encoder.encode_images(images), expected, atol=1e-5)
    assert sizes == [8, 4, 2, 2, 2]
    encoder.encode_images(images)
    assert sizes[5:] == [2, 2, 2]  # a size that did not fit is not tried again
    assert encoder.batch_size == 2
    monkeypatch.setattr(
        encoder._model, "encode_image", lambda batch: (_ for _ in ()).throw(torch.OutOfMemoryError("full"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode_images(images)


def test_retrained_weights_are_another_encoder(tiny_encoder: str, encoder: ImageEncoder, tmp_path: Path):
    from engine.testing.models import save_encoder

    other = load_encoder(str(save_encoder(tmp_path / "encoder", seed=1)))
    assert encoder.name.startswith("encoder@")
    assert other.name.startswith("encoder@")
    assert other.name != encoder.name
    assert load_encoder(tiny_encoder).name == encoder.name


_VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
_POOL = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2}
_MULTIMODAL = {"context_length": 32, "vocab_size": 512, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ViT": {"vision_cfg": _VIT},
    "ViT with an attention pool": {"vision_cfg": {**_VIT, **_POOL}},
    "ModifiedResNet": {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}},
    "timm, text tower apart": {
        "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
        "text_cfg": {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        "custom_text": True,
    },
    "timm, BatchNorms": {
        "vision_cfg": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    },
    "CoCa": {
        "vision_cfg": {**_VIT, **_POOL, "output_tokens": True},
        "text_cfg": {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _MULTIMODAL,
        "custom_text": True,
    },
}
"""Architecture of open_clip → what of its `model_cfg` differs from a small CLIP."""
COSINE_TOLERANCE = {"float16": 2e-5, "bfloat16": 2e-3}
"""1 - cosine between the embeddings of the same input in half precision and in float32."""


def save_architecture(folder: Path, changes: dict[str, Any]) -> str:
    """A random encoder of this architecture, as open_clip saves them."""
    from safetensors.torch import save_file

    tokenizer = clip_tokenizer(pad_token="!")
    text = {"context_length": 32, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 1}
    text |= {"hf_tokenizer_name": "tokenizer"} | changes.get("text_cfg", {})
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    config = {"model_cfg": {"embed_dim": 16, **changes, "text_cfg": text}, "preprocess_cfg": preprocess}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Architecture, or name of a shipped encoder → what `load_encoder` takes."""
    folder = tmp_path_factory.mktemp("architectures")
    made = {
        name: save_architecture(folder / str(number), changes)
        for number, (name, changes) in enumerate(ARCHITECTURES.items())
    }
    return made | {name: name for name in encoder_names()}


@pytest.mark.parametrize("dtype", list(COSINE_TOLERANCE))
@pytest.mark.parametrize("name", [*ARCHITECTURES, *encoder_names()])
def test_half_precision_is_nearly_float32(name: str, dtype: str, architectures: dict[str, str]):
    exact = load_encoder(architectures[name], batch_size=4)
    half = load_encoder(architectures[name], batch_size=4, dtype=dtype)
    assert (exact.dtype, half.dtype) == ("float32", dtype)
    assert half.name == exact.name
    assert half.logit_scale == exact.logit_scale
    images = [as_tensor(class_image(number, number, size=50)) for number in range(5)]
    texts = ["a cat", "a photo of a dog", "two apples"]
    for encode, inputs in (("encode_images", images), ("encode_texts", texts)):
        one, other = (torch.as_tensor(getattr(encoder, encode)(inputs)) for encoder in (exact, half))
        assert other.dtype == torch.float32
        assert torch.allclose(other.norm(dim=1), torch.ones(len(inputs)))
        difference = 1 - (one.double() * other.double()).sum(1).min()
        assert difference <= COSINE_TOLERANCE[dtype]
        assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", *COSINE_TOLERANCE])
@pytest.mark.parametrize("name", ["ViT", "ModifiedResNet"])
def test_a_tower_is_trained_in_float32(name: str, dtype: str, architectures: dict[str, str]):
    encoder = load_encoder(architectures[name], dtype=dtype)
    tower, pixels = encoder.trainable_tower(), encoder.prepare([as_tensor(class_image(0, 0))] * 2)
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32} == {pixels.dtype}
    tower(pixels).sum().backward()
    assert all(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize(("name", "is_turned"), [("ModifiedResNet", True), ("timm, BatchNorms", True), ("ViT", False)])
def test_a_resnet_on_a_processor_has_its_channels_last(name: str, is_turned: bool, architectures: dict[str, str]):
    encoder = load_encoder(architectures[name], batch_size=4)
    visual = encoder._model.visual
    weights = [one for one in visual.parameters() if one.ndim == 4 and one.shape[1] > 1 and one.shape[-1] > 1]
    assert {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights} == {is_turned}
    images = [as_tensor(class_image(number, number)) for number in range(4)]
    turned = encoder.encode_images(images)
    visual.to(memory_format=torch.contiguous_format)
    assert torch.allclose(turned, encoder.encode_images(images), atol=1e-6)


def test_statistics_of_batch_norms_keep_their_range(architectures: dict[str, str]):
    encoder = load_encoder(architectures["ModifiedResNet"], dtype="float16")
    norms = [module for module in encoder._model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert {norm.running_var.dtype for norm in norms if norm.running_var is not None} == {torch.float32}


def test_a_gpu_has_float16_and_a_processor_float32():
    from engine.models.precision import encoder_dtype

    assert [encoder_dtype(device) for device in ("cpu", "cuda", "cuda:1")] == ["float32", "float16", "float16"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*ARCHITECTURES, *encoder_names()])
def test_a_gpu_gives_nearly_the_same(name: str, architectures: dict[str, str]):
    exact, other = load_encoder(architectures[name]), load_encoder(architectures[name], device="cuda")
    images = [exact.preprocessing.resize(as_tensor(class_image(number, number))) for number in range(5)]
    one, two = exact.encode_images(images), other.encode_images(torch.stack(images)).cpu()
    assert (one * two).sum(1).min() >= 1 - COSINE_TOLERANCE["float16"]
    assert (exact.encode_texts(["a cat"]) * other.encode_texts(["a cat"])).sum() >= 1 - COSINE_TOLERANCE["float16"]


def test_an_unknown_dtype_is_one_sentence(tiny_encoder: str):
    with pytest.raises(ValueError, match="unknown dtype 'fp16'"):
        load_encoder(tiny_encoder, dtype="fp16")


def test_a_ready_batch_is_encoded_as_its_images_are(encoder: ImageEncoder, monkeypatch: pytest.MonkeyPatch):
    pixels = [as_tensor(class_image(number, number, size=40 + number)) for number in range(7)]
    expected = encoder.encode_images(pixels)
    ready = torch.stack([encoder.preprocessing.resize(image) for image in pixels])
    shapes: list[int] = []
    monkeypatch.setattr(type(encoder.preprocessing), "resize", lambda _, image: shapes.append(image.ndim) or image)
    assert torch.equal(encoder.encode_images(ready), expected)
    assert set(shapes) == {4}, "an image was touched alone"
    assert torch.equal(encoder.encode_images(ready[:0]), expected[:0])


def test_a_batch_of_another_size_is_resized(encoder: ImageEncoder):
    pixels = torch.stack([as_tensor(class_image(number, number, size=48)) for number in range(5)])
    assert torch.equal(encoder.encode_images(pixels), encoder.encode_images(list(pixels)))


def test_no_more_than_a_batch_is_resized_at_once(encoder: ImageEncoder):
    read: list[int] = []
    encoded: list[int] = []
    """Images read by the time that each batch is encoded."""

    class Images(Sequence[torch.Tensor]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                return [self[number] for number in range(*index.indices(len(self)))]
            if index >= len(self):
                raise IndexError(index)
            read.append(index)
            return as_tensor(class_image(0, index, size=64))

    real = encoder._model.encode_image
    encoder._model.encode_image = lambda batch: encoded.append(len(set(read))) or real(batch)
    try:
        assert encoder.encode_images(Images()).shape == (10, 16)
    finally:
        encoder._model.encode_image = real
    assert encoded == [4, 8, 10]


def test_images_of_several_sizes_keep_their_order(encoder: ImageEncoder):
    pixels = [as_tensor(class_image(number, number, size=40 + 8 * (number % 3))) for number in range(9)]
    alone = torch.cat([encoder.encode_images([one]) for one in pixels])
    assert torch.equal(encoder.encode_images(pixels), alone)


def test_a_gpu_gets_larger_batches_than_a_processor(tiny_encoder: str):
    assert load_encoder(tiny_encoder).batch_size == LazyEncoder(tiny_encoder).batch_size == 64
    assert LazyEncoder(tiny_encoder, device="cuda:1").batch_size == 256
    assert LazyEncoder(tiny_encoder, device="cuda", batch_size=1).batch_size == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_uploads_on_a_stream_of_their_own_mix_no_images(tiny_encoder: str):
    encoder = load_encoder(tiny_encoder, device="cuda", batch_size=4)
    pixels = [as_tensor(class_image(number, number, size=40 + 8 * (number % 3))) for number in range(64)]
    alone = torch.cat([encoder.encode_images([one]) for one in pixels])
    for _ in range(5):
        assert torch.equal(encoder.encode_images(pixels), alone)


def test_one_pass_normalises_as_three_do(tiny_encoder: str):
    encoder = load_encoder(tiny_encoder)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    expected = encoder._normalise(levels)
    encoder.device = "cuda"  # mean and deviation stay where they are, so its formula runs here
    found = encoder._normalise(levels)
    assert not torch.equal(found, expected), "the formula of a processor ran"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_resizes_to_the_same_pixels_as_exact_products_on_a_processor():
    images = torch.randint(0, 256, (5, 3, 384, 512), dtype=torch.uint8)
    preprocessing = Preprocessing((224, 224), "shortest", "bicubic")
    # the processor's weights are those of the GPU, in float32
    assert torch.equal(preprocessing.resize(images.cuda()).cpu(), preprocessing.resize_by_products(images))


@pytest.mark.parametrize("image", [torch.zeros(3, 32, 32), torch.zeros(32, 32, 3, dtype=torch.uint8)])
def test_what_is_no_image_is_one_sentence(encoder: ImageEncoder, image: torch.Tensor):
    for images in ([image], image[None]):
        with pytest.raises(ValueError, match=r"give uint8 of shape \[3, H, W\]") as caught:
            encoder.encode_images(images)
        assert "\n" not in str(caught.value)


def test_the_preprocessing_travels_without_the_weights(encoder: ImageEncoder):
    assert len(pickle.dumps(encoder.preprocessing)) < 1000
    assert pickle.loads(pickle.dumps(encoder.preprocessing)) == encoder.preprocessing


@pytest.mark.parametrize("fault", [DeviceFault("cuda"), RuntimeError("CUDA error: device-side assert triggered")])
def test_a_device_fault_is_no_matter_of_files(fault: RuntimeError, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: Any, **named: Any) -> None:
        raise fault

    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(RuntimeError) as caught:
        load_encoder(tiny_encoder)
    assert caught.value is fault
