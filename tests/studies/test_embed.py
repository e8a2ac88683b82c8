"""`imagefoundry embed` over a small table, on a logical GPU."""

from pathlib import Path

import numpy as np
import pytest

from engine.costs import PriceBook
from engine.dataflow.run import Run
from engine.store import Workspace
from engine.store.vectors import to_matrix
from engine.studies.embed import EmbedConfig, embed_images
from engine.testing.makers import PaintMaker, PaintPlan

pytestmark = pytest.mark.cluster


@pytest.fixture
def place(tmp_path: Path, cluster: None) -> str:
    workspace = Workspace.open(tmp_path / "workspace")
    with Run(workspace, PriceBook.load()) as run:
        run.fill("paint", PaintPlan(12), PaintMaker())
    return str(tmp_path / "workspace")


def vectors(place: str, column: str) -> np.ndarray:
    table = Workspace.open(place).scan(["id", column]).read_all().sort_by("id")
    return to_matrix(table[column].combine_chunks())


def test_each_image_is_embedded_once_and_another_decoder_has_a_column_of_its_own(place: str, tiny_encoder: str):
    some = embed_images(EmbedConfig(place, tiny_encoder, where="class_index = 1"))
    assert (some.images, some.embedded) == (4, 4)
    rest = embed_images(EmbedConfig(place, tiny_encoder))
    assert (rest.images, rest.embedded) == (12, 8)
    assert embed_images(EmbedConfig(place, tiny_encoder)).embedded == 0
    other = embed_images(EmbedConfig(place, tiny_encoder, decode="gpu"))
    assert other.embedded == 12
    assert other.column == f"{rest.column}_nvjpeg"
    # the workers of a logical GPU decode on the processor, so here the vectors are the same
    assert np.array_equal(vectors(place, other.column), vectors(place, rest.column))


def test_a_gpu_that_is_not_there_cannot_decode(place: str, tiny_encoder: str):
    with pytest.raises(ValueError, match="--decode gpu needs a GPU"):
        embed_images(EmbedConfig(place, tiny_encoder, decode="gpu", device="cpu"))


def test_a_wrong_name_or_condition_is_one_sentence(place: str):
    with pytest.raises(ValueError, match="unknown encoder"):
        embed_images(EmbedConfig(place, "mini-clap"))
    with pytest.raises(ValueError, match="where") as caught:
        embed_images(EmbedConfig(place, where="clas = 1"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="there is no workspace"):
        embed_images(EmbedConfig(f"{place}-none"))
