"""Emu2's own parts: names of the published weights, averaging of patches, regression of embeddings, and no remote code."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models import DiffusionGenerator, generator_spec, load_generator
from engine.models.references import fit
from engine.models.weights import count_parameters
from engine.testing import generators as tiny_generators
from engine.testing.generators.emu2 import emu2_config, emu2_keys
from tests.models.test_generator import recipe

REAL = {
    **emu2_config(range(32272)),
    "hidden_size": 6656,
    "intermediate_size": 17920,
    "num_hidden_layers": 60,
    "num_attention_heads": 52,
    "num_key_value_heads": 52,
    "max_position_embeddings": 2048,
    "pad_token_id": 32000,
    "d_model": 1792,
    "vision_config": {
        "image_size": 448,
        "patch_size": 14,
        "width": 1792,
        "layers": 64,
        "head_width": 112,
        "mlp_ratio": 8.571428571428571,
        "qkv_bias": True,
        "postnorm": True,
        "layer_norm_eps": 1e-6,
        "n_query": 64,
    },
}
"""huggingface.co/BAAI/Emu2-Gen/blob/cb9cf0f/multimodal_encoder/config.json (2026-11-21)."""
REAL_GB = 9.96 + 9.96 + 9.9 + 9.87 + 9.87 + 9.96 + 9.9 + 4.4
"""Its eight files of bfloat16 weights, as the Hub lists them, to 10 MB each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_generators.save("emu2", tmp_path_factory.mktemp("emu2"))["source"])


@pytest.fixture(scope="module")
def generator(folder: Path) -> DiffusionGenerator:
    """In float32 on every machine, so that weights and sums can be compared with those of the file."""
    return load_generator(replace(generator_spec("emu2", source=str(folder)), dtype="float32"), batch_size=2)


def _shapes(vision_layers: int, layers: int) -> dict[str, torch.Size]:
    """Name → shape of the real encoder's weights with so many layers."""
    from engine.models.generators.emu2_pipeline import Emu2Encoder

    vision = {**REAL["vision_config"], "layers": vision_layers}
    with torch.device("meta"):
        encoder = Emu2Encoder({**REAL, "vision_config": vision, "num_hidden_layers": layers})
    return {name: parameter.shape for name, parameter in encoder.named_parameters()}


def test_the_real_checkpoint_fits_name_by_name_and_in_size():
    from engine.models.generators.emu2_pipeline import renamed

    theirs = emu2_keys(vision_layers=2, layers=2)
    assert {name for name in theirs if not renamed(name)} == {"model.decoder.lm.lm_head.weight"}
    assert {renamed(name) for name in theirs} - {""} == set(_shapes(2, 2))
    least, seeing, speaking = (
        sum(shape.numel() for shape in _shapes(*depths).values()) for depths in ((1, 1), (2, 1), (1, 2))
    )
    numbers = least + (REAL["vision_config"]["layers"] - 1) * (seeing - least)
    numbers += (REAL["num_hidden_layers"] - 1) * (speaking - least) + REAL["vocab_size"] * REAL["hidden_size"]
    assert 2 * numbers / 1e9 == pytest.approx(REAL_GB, abs=0.04)


def test_the_tiny_checkpoint_has_the_real_names(folder: Path):
    files = sorted((folder / "multimodal_encoder").glob("*.safetensors"))
    assert len(files) == 2
    assert {name for file in files for name in load_file(file)} == emu2_keys(vision_layers=2, layers=2)


def test_every_weight_comes_from_the_file(folder: Path, generator: DiffusionGenerator):
    from engine.models.generators.emu2_pipeline import renamed

    loaded = dict(generator._pipeline.multimodal_encoder.named_parameters())
    for file in (folder / "multimodal_encoder").glob("*.safetensors"):
        for name, value in load_file(file).items():
            assert not renamed(name) or torch.equal(loaded[renamed(name)], value)


def test_embeddings_go_on_as_if_all_were_read_anew(generator: DiffusionGenerator):
    encoder = generator._pipeline.multimodal_encoder
    inputs = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    found = encoder.generate_embeddings(inputs)
    assert found.shape == (1, 4, 16)
    for number in range(4):
        before = torch.cat([inputs, encoder.project_up(found[:, :number])], 1)
        again = encoder.project_down(encoder.language(inputs_embeds=before).last_hidden_state[:, -1])
        torch.testing.assert_close(found[:, number], again, rtol=1e-4, atol=1e-4)


def test_a_reference_is_seen_as_the_means_of_its_squares(generator: DiffusionGenerator):
    encoder = generator._pipeline.multimodal_encoder
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    patches = encoder.visual.forward_features(pixels)[:, 1:].reshape(2, 2, 2, 2, 2, 16)  # row, in it, column, in it
    torch.testing.assert_close(encoder.encode_image(pixels), patches.mean((2, 4)).reshape(2, 4, 16))


def test_the_reference_stands_before_the_text(generator: DiffusionGenerator, monkeypatch: pytest.MonkeyPatch):
    pipeline = generator._pipeline
    encoder = pipeline.multimodal_encoder
    read: list[torch.Tensor] = []
    monkeypatch.setattr(encoder, "generate_embeddings", lambda inputs: read.append(inputs))
    image = fit(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8), 32, 32)
    pipeline.encode_prompt("a cat", image)
    pipeline.encode_prompt("a cat")
    with_image, alone = read
    pixels = pipeline._vision_processor(image, return_tensors="pt").pixel_values
    # <s> [IMG] four embeddings [/IMG] a cat [IMG]
    torch.testing.assert_close(with_image[:, 2:6], encoder.project_up(encoder.encode_image(pixels)))
    mark = encoder.language.embed_tokens(torch.tensor(pipeline.tokenizer.convert_tokens_to_ids("[IMG]")))
    assert torch.equal(with_image[0, 1], mark)
    assert torch.equal(with_image[0, -1], mark)
    assert torch.equal(alone[0, -1], mark)
    assert torch.equal(with_image[:, -4:], alone[:, -4:])


@pytest.mark.parametrize("mark", ["[IMG]", "<image>", "[/IMG]"])
def test_marks_of_an_image_are_no_text(generator: DiffusionGenerator, mark: str):
    with pytest.raises(ValueError, match="contains Emu2's image token"):
        generator.generate([recipe(0, prompt=f"a cat {mark}")])


def test_missing_weights_are_one_sentence(folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    file = next((broken / "multimodal_encoder").glob("*00001*"))
    state = load_file(file)
    name = next(name for name in state if name.startswith("model.visual.blocks.1"))
    save_file({key: value for key, value in state.items() if key != name}, file)
    with pytest.raises(ValueError, match=r"could not be loaded \(.* lacks 1 weights, such as visual\.blocks\.1"):
        load_generator(generator_spec("emu2", source=str(broken)))


def test_code_of_the_checkpoint_is_neither_fetched_nor_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import json

    from engine.models.generators.emu2_pipeline import EmuVisualGenerationPipeline

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for place in (copy / "pipeline_emu2_gen.py", copy / "multimodal_encoder" / "modeling_emu.py"):
        place.write_text("raise SystemExit('this code was run')")
    config = json.loads((copy / "multimodal_encoder" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_emu.EmuForCausalLM"}
    (copy / "multimodal_encoder" / "config.json").write_text(json.dumps(config))
    asked: list[dict] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda source, **named: asked.append(named) or str(copy))
    EmuVisualGenerationPipeline.from_pretrained("BAAI/Emu2-Gen", revision="a41a2dc")
    (named,) = asked
    assert named["revision"] == "a41a2dc"
    assert not [
        pattern for pattern in named["allow_patterns"] if not pattern.endswith((".json", ".model", ".safetensors"))
    ]


def test_the_folder_is_known_by_its_index(folder: Path):
    spec = generator_spec(str(folder))
    assert (spec.pipeline, spec.reference_mode, spec.height) == ("EmuVisualGenerationPipeline", "native", 16)
    assert spec.parameters == count_parameters(folder)
