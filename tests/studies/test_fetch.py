"""`imagefoundry fetch` against a server on loopback: dead links give way to the next best, and every failure is a row."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.images import decode_image
from engine.recipe import Recipe
from engine.sources.fetching.fetcher import FetchLimits
from engine.sources.fetching.pictures import Candidates, Picture, WebMaker
from engine.store import Workspace
from engine.studies.corpus import CorpusConfig, build_corpus
from engine.studies.fetch import FetchConfig, fetch_pictures
from engine.testing.models import save_bert, save_blip2
from tests.sources.fetching.server import Server, serving

LIMITS = {"seconds_between": 0.0, "retry_seconds": 0.0, "timeout_seconds": 20.0, "allow_networks": ("127.0.0.0/8",)}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def test_the_maker_refuses_what_is_no_picture_and_what_would_fill_the_memory(server: Server):
    recipes = [
        Recipe(source="retrieval", dataset="d", class_index=0, class_name="c", key=server.url(path))
        for path in ("ok/1", "html/as-image", "bomb/x", "status/404", "untyped")
    ]
    maker = WebMaker(FetchLimits(**LIMITS))
    maker.load("cpu")
    good, page, bomb, gone, untyped = maker.make(recipes)
    assert good.stored is not None
    assert good.pixels is not None
    assert (good.stored.height, good.stored.width) == tuple(good.pixels.shape[1:]) == (16, 16)
    assert "a web page, not an image" in page.reason
    assert "pixels" in bomb.reason
    assert gone.reason == "status 404"
    assert untyped.stored is not None
    assert maker.make(recipes[:1])[0].stored == good.stored
    assert server.requests["robots.txt"] == 1


def test_the_next_best_takes_the_place_of_a_dead_one():
    names = ["cat", "dog"]
    pictures = [[Picture(f"http://{name}/{number}", name) for number in range(3)] for name in names]
    candidates = Candidates("pets", names, "web", pictures)
    urls = lambda plan: [plan[index].key for index in range(len(plan))]  # noqa: E731
    first = candidates.next_round(set(), set(), 2)
    assert urls(first) == ["http://cat/0", "http://cat/1", "http://dog/0", "http://dog/1"]
    there, dead = {first[0].id, first[2].id, first[3].id}, {first[1].id}
    second = candidates.next_round(there, dead, 2)
    assert urls(second) == ["http://cat/2"]
    assert len(candidates.next_round(there, dead | {second[0].id}, 2)) == 0
    assert [len(kept) for kept in candidates.kept(there, 2)] == [1, 2]


@pytest.mark.cluster
def test_dead_links_are_replaced_until_the_shots_are_there_and_a_second_run_fetches_nothing(
    server: Server, tmp_path: Path, cluster: None, tiny_encoder: str, tiny_dataset: Path
):
    rows, faults = [], ("status/404", "html/x", "circle/a", "tagged/x?tag=noai")
    for number in range(90):
        colour = ("red apple", "green tree", "blue boat")[number % 3]
        path = f"{faults[number // 6 % 4]}#{number}" if number % 6 < 3 else f"ok/{number}"
        rows.append({"url": server.url(path), "caption": f"{colour} {number}"})
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tables/0.parquet")
    place = str(tmp_path / "workspace")
    build_corpus(CorpusConfig(tables=str(tmp_path / "tables"), corpus="web", workspace=place, encoder=tiny_encoder))
    config = FetchConfig(
        corpus="web", datasets=(str(tiny_dataset),), shots=6, reserve=4, encoder=tiny_encoder, workspace=place,
        limits=FetchLimits(**LIMITS),
    )  # fmt: skip
    (found,) = fetch_pictures(config)
    assert [len(kept) for kept in found.kept] == [6, 6, 6]
    assert found.short == 0
    images = Workspace.open(place).scan(["id", "image", "key", "source", "corpus"]).read_all().to_pylist()
    assert len(images) == found.fetched == 18
    assert all("/ok/" in row["key"] and row["corpus"] == "web" for row in images)
    assert all(decode_image(row["image"]).shape == (16, 16, 3) for row in images)
    assert {one for kept in found.kept for one in kept} == {row["id"] for row in images}
    errors = Workspace.open(place).errors().to_pylist()
    assert set(found.reasons) == {row["reason"] for row in errors} <= {
        "status 404", "its type is text/html, no image", "it redirects in a circle", "X-Robots-Tag: noai"
    }  # fmt: skip
    assert sum(found.reasons.values()) == len(errors) > 0
    before = sum(server.requests.values())
    (again,) = fetch_pictures(config)
    assert (again.fetched, again.kept) == (0, found.kept)
    assert sum(server.requests.values()) == before
    texts = {"captioner": str(save_blip2(tmp_path / "blip2")), "similarity": str(save_bert(tmp_path / "bert"))}
    alike = replace(config, shots=7, filter=True, filter_threshold=-1.0, **texts)
    (one_more,) = fetch_pictures(alike)
    assert [len(kept) for kept in one_more.kept] == [7, 7, 7]
    made = Workspace.open(place).scan(["made_caption", "caption_similarity"], "made_caption IS NOT NULL").read_all()
    assert made.num_rows == one_more.fetched == 3
    (none,) = fetch_pictures(replace(alike, shots=8, filter_threshold=1.0))
    assert (none.fetched, none.kept) == (0, one_more.kept)
    assert none.reasons["its caption is less similar to the class name than 1"] > 0
