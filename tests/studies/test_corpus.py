"""`imagefoundry build-corpus`: a corpus has each caption once, however often it was cut off and gone on with, and is searched exactly."""

from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.catalog.caption_tables import RowRules
from engine.costs import PriceBook
from engine.dataflow.run import Run
from engine.evaluation import class_embeddings, mean_text_similarity
from engine.models import load_encoder
from engine.retriever.class_captions import class_pictures, corpus_similarity, local_search, mean_queries
from engine.retriever.ray_captions import cluster_search
from engine.store import Workspace
from engine.store.captions import caption_vectors, captions_at, corpus_parts, nearest_captions
from engine.studies.corpus import CorpusConfig, CorpusReport, build_corpus
from engine.studies.genbench.metrics import MetricsConfig, MetricStudy, run_metrics

pytestmark = pytest.mark.cluster

WORDS = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "small",
    "large",
    "shiny",
    "apple",
    "tree",
    "boat",
    "house",
    "cat",
    "dog",
    "bird",
    "car",
]


def write_tables(folder: Path, numbers: range) -> Path:
    """Files of 40 rows in two row groups: captions of earlier rows come again, some in other letters."""
    folder.mkdir(exist_ok=True)
    for file in numbers:
        rng = np.random.default_rng(file)
        captions = [" ".join(rng.choice(WORDS, 3)) for _ in range(40)]
        captions[5], captions[30] = "A red, APPLE!", "a red apple"
        urls = [f"http://host{row % 3}.test/{file}/{row}.jpg" for row in range(40)]
        urls[7] = "none"
        table = pa.table({"URL": urls, "TEXT": captions, "WIDTH": [64] * 40, "HEIGHT": [64] * 40})
        pq.write_table(table, folder / f"{file:03}.parquet", row_group_size=20)
    return folder


def build(folder: Path, place: Path, encoder: str, **more) -> CorpusReport:
    return build_corpus(CorpusConfig(tables=str(folder), corpus="web", workspace=str(place), encoder=encoder, **more))


def rows_of(place: Path) -> list[dict]:
    table = Workspace.open(place).read("captions")
    return sorted(table.drop_columns(["part"]).to_pylist(), key=lambda row: row["key"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cluster: None, tiny_encoder: str) -> tuple[Path, CorpusReport]:
    place = tmp_path_factory.mktemp("corpus")
    return place, build(write_tables(place / "tables", range(4)), place / "workspace", tiny_encoder)


def test_every_row_is_a_caption_or_counted(whole: tuple[Path, CorpusReport]):
    place, report = whole
    captions = [row["caption"] for row in rows_of(place / "workspace")]
    assert report.captions == report.added == len(captions) == len(set(captions))
    assert report.rows == 160
    assert report.captions + sum(report.left.values()) == 160
    assert report.left["refused: no http address"] == 4
    assert captions.count("A red, APPLE!") + captions.count("a red apple") == 1
    ledger = {row["stage"]: row for row in Workspace.open(place / "workspace").ledger().to_pylist()}
    assert ledger["embed captions"]["rows"] == report.captions
    assert ledger["embed captions"]["usd_compute"] > 0


def test_embeddings_are_the_encoders_in_half_precision(whole: tuple[Path, CorpusReport], tiny_encoder: str):
    workspace = Workspace.open(whole[0] / "workspace")
    encoder = load_encoder(tiny_encoder)
    for positions, vectors in caption_vectors(workspace, "web", encoder.name):
        texts = captions_at(workspace, positions, ["caption"])["caption"].to_pylist()
        assert np.allclose(encoder.encode_texts(texts), vectors, atol=1e-3)


def test_a_build_that_was_cut_off_ends_with_the_same_rows_as_one_that_was_not(
    whole: tuple[Path, CorpusReport], tmp_path: Path, tiny_encoder: str
):
    tables, place = write_tables(tmp_path / "tables", range(2)), tmp_path / "workspace"
    build(tables, place, tiny_encoder)
    write_tables(
        tmp_path / "tables", range(1, 4)
    )  # two files more; one that is there is written again, its rows the same
    # killed between the commit of the captions and that of their account; and a file of captions lost by its account alone
    workspace = Workspace.open(place)
    parts = corpus_parts(workspace, "web")["part"].to_pylist()
    lance.dataset(workspace.table_uri("caption_parts")).delete(f"part = {parts[0]}")
    lance.dataset(workspace.table_uri("captions")).delete(f"part = {parts[1]}")
    report = build(tables, place, tiny_encoder)
    assert rows_of(place) == rows_of(whole[0] / "workspace")
    assert report.captions == whole[1].captions
    again = build(tables, place, tiny_encoder)
    assert (again.added, again.captions) == (0, report.captions)


def test_another_encoder_or_other_rules_are_refused(whole: tuple[Path, CorpusReport], tiny_encoder: str):
    place, _ = whole
    with pytest.raises(ValueError, match=r"was built with encoder .* or another --corpus"):
        build(place / "tables", place / "workspace", "mini-clip")
    with pytest.raises(ValueError, match="was built with settings"):
        build(place / "tables", place / "workspace", tiny_encoder, rows=RowRules(least_pixels=32))


def test_a_part_that_cannot_be_read_is_counted_and_the_others_are_used(
    tmp_path: Path, cluster: None, tiny_encoder: str
):
    tables = write_tables(tmp_path / "tables", range(2))
    data = bytearray((tables / "000.parquet").read_bytes())
    data[4:300] = bytes(296)
    (tables / "000.parquet").write_bytes(data)
    report = build(tables, tmp_path / "workspace", tiny_encoder)
    assert sum(number for reason, number in report.left.items() if "cannot be read" in reason) == 40
    assert 0 < report.captions <= 40


def test_the_cluster_finds_what_one_process_finds_and_the_table_finds(
    whole: tuple[Path, CorpusReport], tiny_encoder: str
):
    workspace = Workspace.open(whole[0] / "workspace")
    encoder = load_encoder(tiny_encoder)
    texts = encoder.encode_texts(["a red apple", "a photo of a red apple", "a blue boat", "a photo of a blue boat"])
    texts = texts.reshape(2, 2, -1)
    with Run(workspace, PriceBook.load()) as run:
        search = cluster_search(run, "web", encoder.name)
        found = search(mean_queries(texts), 7)
        pictures = class_pictures(search, workspace, texts, 10)
    local = local_search(workspace, "web", encoder.name)
    assert np.array_equal(found.rows, local(mean_queries(texts), 7).rows)
    one = nearest_captions(workspace, "web", encoder.name, mean_queries(texts)[0], k=7)
    assert one["url"].to_pylist() == captions_at(workspace, found.rows[0], ["url"])["url"].to_pylist()
    assert all(len(each.urls) == 10 for each in pictures)
    assert len({url for each in pictures for url in each.urls}) == 20  # one picture serves one class
    assert (corpus_similarity(local, texts, 5) > corpus_similarity(local, texts, 50)).all()
    with pytest.raises(ValueError, match="fewer than 999 captions"):
        corpus_similarity(local, texts, 999)


def test_the_similarity_of_a_corpus_is_that_of_its_captions_each_once(
    whole: tuple[Path, CorpusReport], tiny_encoder: str
):
    workspace, encoder = Workspace.open(whole[0] / "workspace"), load_encoder(tiny_encoder)
    texts = encoder.encode_texts(["a red apple", "an old boat", "a cat", "one more cat"]).reshape(2, 2, -1)
    vectors = np.concatenate([vectors for _, vectors in caption_vectors(workspace, "web", encoder.name)])
    found = corpus_similarity(local_search(workspace, "web", encoder.name), texts, 9)
    expected = mean_text_similarity(class_embeddings(texts), vectors, k=9)
    assert np.allclose(found, expected, atol=1e-3)  # the stored vectors are float16, not quite of unit norm


def test_the_metric_study_searches_the_corpus_on_the_cluster_once(
    whole: tuple[Path, CorpusReport], tmp_path: Path, tiny_dataset: Path, tiny_encoder: str, tiny_pipeline: str
):
    place = str(whole[0] / "workspace")
    config = MetricsConfig(
        workspace=place, corpus="web", report=tmp_path / "report", datasets=(str(tiny_dataset),), encoder=tiny_encoder,
        generator=tiny_pipeline, sources=("generative",), shots=(2,), compare_shots=2, seeds=(0,), other_encoders=(),
        fid_encoder=tiny_encoder, nearest_captions=9,
    )  # fmt: skip
    searches = lambda: [row for row in Workspace.open(place).ledger().to_pylist() if row["stage"] == "search captions"]  # noqa: E731
    before = {row["run_id"] for row in searches()}
    report = run_metrics(config)
    study = MetricStudy(config)
    texts = np.asarray(study.texts(study.datasets[0]))
    expected = corpus_similarity(local_search(Workspace.open(place), "web", load_encoder(tiny_encoder).name), texts, 9)
    assert [row["mts"] for row in report.tables["figure_6_classes"]] == pytest.approx(expected.tolist())
    assert "9 nearest captions of corpus web" in (tmp_path / "report/index.html").read_text()
    (of_set,) = report.tables["figure_6_data_sets"]
    assert of_set["mts"] == pytest.approx(expected.mean())
    (search,) = [row for row in searches() if row["run_id"] not in before]
    assert search["usd_compute"] > 0
    assert search["rows"] % 3 == 0  # three classes, searched in each part of the corpus
    num_searches = len(searches())
    assert run_metrics(config).tables["figure_6_classes"] == report.tables["figure_6_classes"]
    assert len(searches()) == num_searches


def test_the_metric_study_refuses_a_corpus_that_it_cannot_use(whole: tuple[Path, CorpusReport], tmp_path: Path):
    place = str(whole[0] / "workspace")
    config = MetricsConfig(workspace=place, corpus="web", report=tmp_path / "report")
    with pytest.raises(ValueError, match="use the same encoder"):
        MetricStudy(config).check()
    with pytest.raises(ValueError, match="has no corpus 'laion'"):
        MetricStudy(replace(config, corpus="laion")).check()


def test_a_corpus_that_is_not_there_or_of_another_encoder_is_one_sentence(whole: tuple[Path, CorpusReport]):
    workspace = Workspace.open(whole[0] / "workspace")
    with pytest.raises(ValueError, match=r"has no corpus 'laion' \(there is web\)"):
        local_search(workspace, "laion", "x")
    with pytest.raises(ValueError, match="use the same encoder"):
        local_search(workspace, "web", "x")
