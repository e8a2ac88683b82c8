from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.catalog import load_dataset
from engine.models.faults import DeviceFault
from engine.models.generator import References
from engine.recipe import Recipe
from engine.sources import CorpusMaker, GeneratorMaker, OriginalPlan, make
from engine.store import Workspace
from engine.testing.data import class_image, encode, write_dataset
from engine.testing.data import write_shards as write_split
from tests.catalog.trees import table, write_files, write_shards, write_tables
from tests.models.test_generator import recipe


@pytest.fixture
def maker(tiny_pipeline: str) -> GeneratorMaker:
    made = GeneratorMaker(tiny_pipeline, batch_size=4)
    made.load("cpu")
    return made


def test_recipes_of_several_sizes_are_made_in_their_order(maker: GeneratorMaker):
    recipes = [recipe(0), recipe(1, height=24), recipe(2), recipe(3, height=24)]
    made = maker.make(recipes)
    assert [tuple(one.pixels.shape) for one in made] == [(3, 16, 16), (3, 24, 16), (3, 16, 16), (3, 24, 16)]
    assert torch.equal(made[2].pixels, maker.make([recipe(2)])[0].pixels)
    assert made[0].batch_size == 4
    assert made[0].dtype == "float32"


def test_one_failing_prompt_spoils_no_other(maker: GeneratorMaker, monkeypatch: pytest.MonkeyPatch):
    real = maker._generator._sample_batch

    def picky(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        if any("bad" in one.prompt for one in recipes):
            raise RuntimeError("cannot draw this")
        return real(recipes, references)

    expected = maker.make([recipe(0), recipe(2)])
    monkeypatch.setattr(maker._generator, "_sample_batch", picky)
    made = maker.make([recipe(0), recipe(1, prompt="bad"), recipe(2), recipe(3, prompt="")])
    assert [one.reason for one in made] == [
        "",
        "RuntimeError: cannot draw this",
        "",
        "ValueError: the prompt is empty; give it some text",
    ]
    assert torch.equal(made[0].pixels, expected[0].pixels)
    assert torch.equal(made[2].pixels, expected[1].pixels)


def test_the_companions_of_a_prompt_that_cannot_be_encoded_are_made_together(
    maker: GeneratorMaker, monkeypatch: pytest.MonkeyPatch
):
    real, batches = maker._generator._sample_batch, []

    def noted(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        pixels = real(recipes, references)
        batches.append([one.seed for one in recipes])
        return pixels

    monkeypatch.setattr(maker._generator, "_sample_batch", noted)
    made = maker.make([recipe(0), recipe(1, prompt="a " * 500), recipe(2), recipe(3, prompt="")])
    assert [bool(one.reason) for one in made] == [False, True, False, True]
    assert "shorten it" in made[1].reason
    assert made[3].reason == "ValueError: the prompt is empty; give it some text"
    assert [sorted(set(batch)) for batch in batches] == [[0, 2]]
    assert all(made[number].batch_size == 4 for number in (0, 2))


def test_a_device_that_fails_while_prompts_are_tried_is_no_fault_of_a_prompt(
    maker: GeneratorMaker, monkeypatch: pytest.MonkeyPatch
):
    def broken(one: Recipe) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(maker._generator, "check_text", broken)
    with pytest.raises(DeviceFault, match="illegal memory access"):
        maker.make([recipe(0), recipe(1, prompt="a " * 500)])


def test_a_reference_that_is_not_in_the_table_is_that_rows_error_alone(tiny_pipeline: str, tmp_path: Path):
    maker = GeneratorMaker(tiny_pipeline, batch_size=4, references=Workspace.open(tmp_path / "workspace").uri)
    maker.load("cpu")
    referring = recipe(1, reference_id="gone", reference_mode="img2img", reference_scale=0.5)
    plain, lost = maker.make([recipe(0), referring])
    assert plain.pixels is not None
    assert (lost.pixels, lost.reason) == (None, "its reference image gone is not in the table")


def test_nan_pixels_are_that_rows_error_alone(maker: GeneratorMaker, monkeypatch: pytest.MonkeyPatch):
    real = maker._generator._sample_batch

    def spoiled(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        pixels = real(recipes, references).clone()
        pixels[1, 0, 0, 0] = float("nan")
        return pixels

    monkeypatch.setattr(maker._generator, "_sample_batch", spoiled)
    made = maker.make([recipe(number) for number in range(3)])
    assert [bool(one.reason) for one in made] == [False, True, False]
    assert "not finite" in made[1].reason


def test_a_model_too_big_for_the_device_says_so_in_every_row(maker: GeneratorMaker, monkeypatch: pytest.MonkeyPatch):
    def never(recipes: Sequence[Recipe], references: References, on_step: object = None) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(maker._generator, "_sample_batch", never)
    assert all("does not fit into the memory" in one.reason for one in maker.make([recipe(0), recipe(1)]))


def test_a_corpus_image_keeps_its_own_bytes(tiny_dataset: Path):
    dataset = load_dataset(str(tiny_dataset))
    plan = OriginalPlan(dataset, 8)
    made = CorpusMaker({dataset.name: dataset.location}).make([plan[number] for number in range(24)])
    assert all(one.stored.encoded[:4] == b"RIFF" and tuple(one.pixels.shape) == (3, 32, 32) for one in made)
    colours = torch.stack([one.pixels.float().mean((1, 2)) for one in made])
    assert torch.cdist(colours[::3], colours[::3]).max() < torch.cdist(colours[::3], colours[1::3]).min()


def test_a_corrupt_image_is_one_error(tmp_path: Path):
    images = [(encode(class_image(0, number)), "0") for number in range(4)]
    images[2] = (b"RIFF and then nothing", "0")
    write_split(tmp_path / "train", images)
    (tmp_path / "classnames.txt").write_text("cat\n")
    dataset = load_dataset(str(tmp_path))
    plan = OriginalPlan(dataset, 4)
    made = CorpusMaker({dataset.name: dataset.location}).make([plan[number] for number in range(4)])
    assert sum("cannot be decoded" in one.reason for one in made) == 1
    assert sum(one.pixels is not None for one in made) == 3


def test_a_shard_that_went_away_is_an_error_of_its_rows(tmp_path: Path):
    folder = write_dataset(tmp_path / "things", ("cat",), train=4)
    dataset = load_dataset(str(folder))
    recipes = [OriginalPlan(dataset, 4)[number] for number in range(4)]
    (folder / "train" / "0.tar").unlink()
    made = CorpusMaker({dataset.name: dataset.location}).make(recipes)
    assert sum("cannot be read" in one.reason for one in made) > 0


def test_each_bad_item_is_its_own_row_and_names_its_file(tmp_path: Path):
    picture = encode(class_image(0, 1))
    files = {f"train/cat/{number}.webp": picture for number in range(4)}
    files |= {
        "train/cat/a.jpg": "<html>gone</html>",
        "train/cat/b.jpg": "",
        "train/cat/c.jpg": "",
        "train/cat/é.png": picture[:50],
    }
    folder = write_files(tmp_path / "pets", files)
    write_files(folder, ["train/cat/d.jpg -> /nowhere"])
    dataset = load_dataset(str(folder))
    plan = OriginalPlan(dataset, 9)
    made = CorpusMaker({dataset.name: dataset.location}).make([plan[number] for number in range(9)])
    assert sum(one.pixels is not None for one in made) == 4
    assert sorted(one.reason for one in made if one.reason) == [
        "train/cat/a.jpg: the image cannot be decoded (it is a web page, not an image; download it again)",
        "train/cat/b.jpg: the image cannot be decoded (the file is empty)",
        "train/cat/c.jpg: the image cannot be decoded (the file is empty)",
        "train/cat/d.jpg: the file cannot be read (it is not there)",
        next(one.reason for one in made if one.reason.startswith("train/cat/é.png: the image cannot be decoded (")),
    ]


def test_one_image_that_breaks_a_decoder_in_an_unknown_way_is_one_row(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
):
    dataset = load_dataset(str(tiny_dataset))
    plan = OriginalPlan(dataset, 4)
    calls = iter(range(100))
    whole = make.content_hash

    def breaks(pixels: object) -> str:
        if next(calls) == 2:
            raise MemoryError("out of memory")
        return whole(pixels)

    monkeypatch.setattr(make, "content_hash", breaks)
    made = CorpusMaker({dataset.name: dataset.location}).make([plan[number] for number in range(12)])
    assert [number for number, one in enumerate(made) if one.reason] == [2]
    assert made[2].reason.endswith(": MemoryError: out of memory")
    assert (made[2].pixels, made[2].stored) == (None, None)


@pytest.mark.parametrize("layout", ["folders", "shards", "tables"])
def test_an_image_changes_nothing_of_the_others_in_any_layout(tmp_path: Path, layout: str):
    pictures = [encode(class_image(number % 2, number)) for number in range(10)]
    pictures[4] = b"\0" * 100
    names = ("cat", "dog")
    if layout == "folders":
        folder = write_files(
            tmp_path / "pets", {f"train/{names[i % 2]}/{i}.webp": data for i, data in enumerate(pictures)}
        )
    elif layout == "shards":
        folder = write_shards(
            tmp_path / "pets",
            {
                "train": [
                    each
                    for i, data in enumerate(pictures)
                    for each in ((f"s{i}.webp", data), (f"s{i}.cls", f"{i % 2}"))
                ]
            },
        )
    else:
        cells = [{"bytes": data, "path": None} for data in pictures]
        cells[5] = None
        folder = write_tables(tmp_path / "pets", {"train.parquet": table([0, 1] * 5, cells=cells)})
    dataset = load_dataset(str(folder))
    plan = OriginalPlan(dataset, 5)
    made = CorpusMaker({dataset.name: dataset.location}).make([plan[number] for number in range(10)])
    reasons = sorted(one.reason for one in made if one.reason)
    zeros = "the image cannot be decoded (the file holds zeros alone; copy it again)"
    assert (
        reasons
        == {
            "folders": [f"train/cat/4.webp: {zeros}"],
            "shards": [f"train/0.tar: s4: {zeros}"],
            "tables": [f"train.parquet: row 4: {zeros}", "train.parquet: row 5: the row has no image"],
        }[layout]
    )
    assert sum(one.pixels is not None for one in made) == 10 - len(reasons)
