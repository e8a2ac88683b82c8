"""The filter by captions, through the classes of transformers with tiny random weights."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.dataflow.caption_filter import CaptionFilter
from engine.dataflow.stages import Stages
from engine.models.text import load_captioner, load_text_similarity
from engine.testing.models import save_bert, save_blip2

NAMES = ["cat", "dog", "cat", "boat", "tree"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("text")
    return {"captioner": str(save_blip2(place / "blip2")), "similarity": str(save_bert(place / "bert"))}


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 255, (3, 24, 20 + number)).astype(np.uint8)) for number in range(5)]


def run(stage: CaptionFilter, images: list[torch.Tensor]):
    ids = [f"{number:032x}" for number in range(len(images))]
    return Stages([stage], "cpu").run_on(ids, {None: images}, pa.table({"class_name": NAMES}))


def test_the_score_is_that_of_the_caption_and_the_class_name(models: dict[str, str], images: list[torch.Tensor]):
    found = run(CaptionFilter(**models, batch_size=2), images)
    captions = load_captioner(models["captioner"], batch_size=2).caption(images)
    similarity = load_text_similarity(models["similarity"]).similarity(captions, NAMES).diagonal()
    assert found.columns["made_caption"].to_pylist() == captions
    assert found.columns["caption_similarity"].to_pylist() == pytest.approx(similarity.tolist(), abs=1e-5)
    assert len(found.kept) == 5  # also the least similar ones: a threshold chooses among stored images
