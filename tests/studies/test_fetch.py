"""`imagefoundry fetch` against a server on loopback: dead links give way to the next best, and every failure is a row."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cli.main import main
from engine.images import decode_image
from engine.models import load_encoder
from engine.recipe import Recipe
from engine.sources.fetching.fetcher import FetchLimits
from engine.sources.fetching.pictures import Candidates, Picture, WebMaker
from engine.store import Committer, Workspace, write_fragments
from engine.store.captions import ensure_caption_encoder
from engine.store.vectors import from_matrix
from engine.studies.fetch import FetchConfig, FetchedSet, fetch_pictures
from engine.testing.models import save_bert, save_blip2
from tests.catalog.test_img2dataset import write_output
from tests.sources.fetching.server import Server, serving

FAULTS = {
    "status/404": "status 404",
    "html/x": "its type is text/html, no image",
    "circle/a": "it redirects in a circle",
    "tagged/x?tag=noai": "X-Robots-Tag: noai",
}
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


def commit_corpus(workspace: Workspace, corpus: str, source: str, rows: list[dict[str, str]]) -> None:
    """A corpus as `build-corpus` leaves it, of rows with `url` and `caption`."""
    encoder = load_encoder(source)
    column = ensure_caption_encoder(workspace, encoder.name, encoder.dimension)
    vectors = encoder.encode_texts([row["caption"] for row in rows]).astype(np.float16)
    numbers = {"corpus": corpus, "part": 0}
    table = pa.Table.from_pylist([row | numbers | {"row": at, "key": at} for at, row in enumerate(rows)])
    account = numbers | {"encoder": encoder.name, "file": "", "start": 0, "rows": len(rows), "used": len(rows)}
    account |= {"left": "{}", "settings": "{}", "run_id": ""}
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "captions", table.append_column(column, from_matrix(vectors))))
        committer.add(write_fragments(workspace.uri, "caption_parts", pa.Table.from_pylist([account])))


@pytest.fixture(scope="module")
def web(
    tmp_path_factory: pytest.TempPathFactory, cluster: None, tiny_encoder: str, tiny_dataset: Path
) -> Iterator[tuple[Server, FetchConfig, FetchedSet]]:
    """A corpus of 90 pictures, every second three of which are dead links, how they are fetched, and the outcome of the first fetch."""
    place = tmp_path_factory.mktemp("web")
    with serving() as server:
        rows = []
        for number in range(90):
            colour = ("red apple", "green tree", "blue boat")[number % 3]
            path = f"{list(FAULTS)[number // 6 % 4]}#{number}" if number % 6 < 3 else f"ok/{number}"
            rows.append({"url": server.url(path), "caption": f"{colour} {number}"})
        texts = {"captioner": str(save_blip2(place / "blip2")), "similarity": str(save_bert(place / "bert"))}
        workspace = str(place / "workspace")
        commit_corpus(Workspace.open(workspace), "web", tiny_encoder, rows)
        config = FetchConfig(
            corpus="web", datasets=(str(tiny_dataset),), shots=6, reserve=4, encoder=tiny_encoder, workspace=workspace,
            limits=FetchLimits(**LIMITS), filter=True, filter_threshold=-1.0, **texts,
        )  # fmt: skip
        (found,) = fetch_pictures(config)
        yield server, config, found


@pytest.mark.cluster
def test_dead_links_are_replaced_until_the_shots_are_there_and_another_threshold_chooses_among_stored_pictures(
    web: tuple[Server, FetchConfig, FetchedSet],
):
    server, config, found = web
    assert [len(kept) for kept in found.kept] == [6, 6, 6]
    assert found.short == 0
    columns = ["id", "image", "key", "source", "corpus", "made_caption", "caption_similarity", "device_seconds"]
    images = Workspace.open(config.workspace).scan(columns, "corpus = 'web'").read_all().to_pylist()
    assert len(images) == found.fetched == 18
    assert all("/ok/" in row["key"] and row["corpus"] == "web" for row in images)
    assert all(decode_image(row["image"]).shape == (16, 16, 3) for row in images)
    assert {one for kept in found.kept for one in kept} == {row["id"] for row in images}
    errors = Workspace.open(config.workspace).errors().to_pylist()
    assert set(found.reasons) == {row["reason"] for row in errors} <= set(FAULTS.values())
    assert sum(found.reasons.values()) == len(errors) > 0
    assert server.requests["robots.txt"] == 1  # one worker for all rounds, so its politeness outlives each

    before = sum(server.requests.values())
    scores = sorted(row["caption_similarity"] for row in images)
    threshold = scores[1] + (scores[2] - scores[1]) / 2
    (stricter,) = fetch_pictures(replace(config, filter_threshold=threshold))
    reason = f"its caption is less similar to the class name than {threshold:g}"
    assert stricter.reasons[reason] == 2 + stricter.fetched - (sum(map(len, stricter.kept)) - 16)
    rows = Workspace.open(config.workspace).scan(["id", "caption_similarity"], "corpus = 'web'").read_all().to_pylist()
    score_of = {row["id"]: row["caption_similarity"] for row in rows}
    assert len(score_of) == 18 + stricter.fetched
    assert all(score_of[one] >= threshold for kept in stricter.kept for one in kept)
    tried = len(Workspace.open(config.workspace).errors()) - len(errors) + stricter.fetched
    assert sum(server.requests.values()) - before <= tried * 2 + 1  # nothing that is stored is fetched again

    before = sum(server.requests.values())
    (again,) = fetch_pictures(config)
    assert (again.fetched, again.kept) == (0, found.kept)
    assert sum(server.requests.values()) == before
    stages = [row["stage"] for row in Workspace.open(config.workspace).ledger().to_pylist()]
    assert stages.count("search captions") == 1  # of the run that fetched nothing; else the pictures carry it


@pytest.mark.cluster
def test_fetched_pictures_and_folders_of_img2dataset_are_genbenchs_retrieval_source(
    web: tuple[Server, FetchConfig, FetchedSet], tmp_path: Path, tiny_dataset: Path, tiny_encoder: str
):
    server, config, _ = web
    place = ["--workspace", config.workspace, "--report", str(tmp_path / "report"), "--encoder", tiny_encoder]
    study = ["genbench", "--datasets", str(tiny_dataset), "--sources", "retrieval", *place, "--allow-fewer-shots"]
    before = sum(server.requests.values())
    assert main([*study, "--shots", "2", "5", "--fetched", "web", "--fetched-threshold", "-1"]) == 0
    assert sum(server.requests.values()) == before
    tables = json.loads((tmp_path / "report/report.json").read_text())["tables"]
    few, many = sorted(tables["tradeoff"], key=lambda row: row["shots"])
    assert (few["images"], many["images"]) == (6, 15)
    (fetched,) = tables["fetched"]
    assert (fetched["corpus"], fetched["pictures"], fetched["below_threshold"]) == ("web", 15, 0)
    assert fetched["bytes_per_picture"] > 100
    assert fetched["failed_candidates"] > 0
    assert many["usd_per_image"] == pytest.approx(fetched["usd_per_picture"])
    assert many["usd_billed"] > many["usd_busy"] > 0
    assert main([*study, "--shots", "2", "--fetched", "web", "--fetched-threshold", "1.5"]) == 2
    assert main(["report", "--workspace", config.workspace, "--report", str(tmp_path / "all")]) == 0
    errors = json.loads((tmp_path / "all/report.json").read_text())["tables"]["errors"]
    assert any("://" in row["examples"] for row in errors)

    pool = str(write_output(tmp_path / "pool", "webdataset"))
    assert main([*study, "--shots", "2", "--pool", pool]) == 0
    (row,) = json.loads((tmp_path / "report/report.json").read_text())["tables"]["tradeoff"]
    assert row["images"] == 6
    assert row["usd_per_image"] > 0
    made = Workspace.open(config.workspace).scan(["key"], "corpus = 'pool'").read_all()
    assert all(key.startswith("0000") for key in made["key"].to_pylist())
