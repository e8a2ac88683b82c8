"""The pages of a study: its links, its answers, its results, and what raters cannot see."""

import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from engine.testing.data import class_image
from tests.serving.pages_client import MATCHING, REAL_FAKE, link_of, make_study, rate, text_of, visit
from tests.serving.pages_server import (
    BOBS_KEY,
    CLASSES,
    EVIL,
    KEY,
    add_images,
    generated,
    image_row,
    make_service,
    make_workspace,
    original,
)


@pytest.fixture
def service(tmp_path: Path) -> Any:
    return make_service(make_workspace(tmp_path / "workspace"))


@pytest.fixture
def client(service: Any) -> TestClient:
    return visit(service, KEY)


def test_a_study_is_rated_to_its_end_and_resumed_by_its_link(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    link = link_of(client, study_id, "Rita")
    visitor = visit(service)
    assert "I agree" in text_of(visitor, link)
    rate(visitor, link, "6", screens=1)
    resumed = visit(service)
    assert "2 of 3</span>" in text_of(resumed, link)
    assert "Thank you, Rita" in rate(resumed, link, "4")
    rows = service.workspace.read("ratings").to_pylist()
    assert sorted(row["answer"] for row in rows) == [4, 4, 4, 4, 6, 6]
    assert {row["rater"] for row in rows} == {"Rita"}
    assert len({row["item"] for row in rows}) == 6


def test_the_newest_answer_counts(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    link = link_of(client, study_id, "Rita")
    rate(client, link, "2")
    page = text_of(client, link + "&agreed=1&at=1")
    assert page.count("checked") == 2
    places = sorted(set(re.findall(r'name="(answer-\d+)"', page)))
    client.post(link, data={"agreed": "1", "at": "1", "started": "0", **dict.fromkeys(places, "7")})
    lines = list(csv.DictReader(io.StringIO(text_of(client, f"/study/{study_id}/answers.csv"))))
    assert sorted(line["answer"] for line in lines) == ["2", "2", "2", "2", "7", "7"]
    assert service.workspace.dataset("ratings").count_rows() == 8


def test_each_rater_has_an_order_of_their_own_and_sees_nothing_that_tells_the_method(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING | {"sets": "8"})
    rows = service.workspace.read("studies").to_pylist()
    hidden = {value for row in rows for value in (row["item"], row["image_id"], row["method"])} | {"reference", "mini"}
    pages = {}
    for rater in ("Rita", "Rob", "Ruth"):
        link = link_of(client, study_id, rater)
        page = text_of(visit(service), link + "&agreed=1")
        assert not [value for value in hidden if value in page]
        source = re.findall(r'<img src="([^"]+)"', page)[0]
        answer = visit(service).get(html.unescape(source))
        assert answer.content[:4] == b"\x89PNG"
        prompts = []
        for number in range(1, 9):
            page = text_of(client, f"{link}&agreed=1&at={number}")
            prompts.append(re.findall(r"<h1>(.*?)</h1>", page)[0])
        pages[rater] = prompts
    assert len({tuple(prompts) for prompts in pages.values()}) == 3


@pytest.mark.parametrize("change", [{"rater": "Rob"}, {"token": "0" * 40}, {"token": ""}, {"study": "other"}])
def test_a_link_opens_its_own_study_for_its_own_rater_alone(service: Any, client: TestClient, change: dict[str, str]):
    study_id, other = make_study(client, MATCHING), make_study(client, MATCHING)
    link = link_of(client, study_id, "Rita")
    token = link.rpartition("token=")[2]
    study_id = other if "study" in change else study_id
    changed = f"/rate/{study_id}?rater={change.get('rater', 'Rita')}&token={change.get('token', token)}"
    visitor = visit(service)
    assert visitor.get(changed).status_code == 403
    assert visitor.post(changed, data={"agreed": "1", "at": "1", "answer-0": "5", "answer-1": "5"}).status_code == 403
    assert visitor.get(changed.replace("?", "/image/0?", 1)).status_code == 403
    assert service.workspace.dataset("ratings").count_rows() == 0


def test_a_rater_cannot_read_results(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    link = link_of(client, study_id, "Rita")
    visitor = visit(service)
    for path in ("", "/live", "/answers.csv", "/figure/mean.svg"):
        query = link.partition("?")[2]
        assert visitor.get(f"/study/{study_id}{path}?{query}").status_code == 401


def test_another_key_cannot_open_a_study(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    theirs = visit(service, BOBS_KEY)
    for path in ("", "/live", "/answers.csv", "/figure/mean.svg"):
        assert theirs.get(f"/study/{study_id}{path}").status_code == 404
    assert study_id in text_of(client, "/study")
    assert study_id not in text_of(theirs, "/study")


@pytest.mark.parametrize("answers", [{}, {"answer-0": "8"}, {"answer-0": "x"}, {"answer-0": "-1"}, {"answer-0": "5"}])
def test_an_incomplete_screen_is_not_saved(service: Any, client: TestClient, answers: dict[str, str]):
    link = link_of(client, make_study(client, MATCHING), "Rita")
    saved = client.post(link, data={"agreed": "1", "at": "1", "started": "0"} | answers)
    assert saved.status_code == 400
    assert "Rate every image" in saved.text
    assert client.post(link, data={"at": "1", "answer-0": "5", "answer-1": "5"}).status_code == 400
    assert service.workspace.dataset("ratings").count_rows() == 0


def test_a_link_cannot_fill_the_table(service: Any, client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.serving.pages.rate.MAX_CHANGES", 1)
    link = link_of(client, make_study(client, MATCHING), "Rita")
    rate(client, link, "2")
    page = text_of(client, link + "&agreed=1&at=1")
    places = sorted(set(re.findall(r'name="(answer-\d+)"', page)))
    form = {"agreed": "1", "at": "1", "started": "0", **dict.fromkeys(places, "7")}
    assert client.post(link, data=form).status_code == 429
    assert service.workspace.dataset("ratings").count_rows() == 6


def test_results_are_those_of_the_paper(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    for rater, answer in (("Rita", "6"), ("Rob", "5"), ("Ruth", "7")):
        rate(client, link_of(client, study_id, rater), answer)
    page = text_of(client, f"/study/{study_id}")
    assert page.count("<b>6.00</b>") == 2
    assert "4.00 to 8.00" not in page
    assert "3.52 to 8.48" in page  # 6 ± t(0.975, 2) / sqrt(3)
    assert "Krippendorff" in page
    for name in ("mean", "spread"):
        svg = client.get(f"/study/{study_id}/figure/{name}.svg")
        assert svg.headers["content-type"] == "image/svg+xml"
        assert b"with references" in svg.content
    version = html.unescape(re.findall(r"live\?version=([^\"]+)", page)[0])
    assert client.get(f"/study/{study_id}/live?version={version}").status_code == 204
    rate(client, link_of(client, study_id, "Rosa"), "1")
    assert "<b>4.75</b>" in client.get(f"/study/{study_id}/live?version={version}").text


def test_real_or_generated(service: Any, client: TestClient):
    study_id = make_study(client, REAL_FAKE)
    for rater in ("Rita", "Rob"):
        assert "Thank you" in rate(client, link_of(client, study_id, rater), "1")
    page = text_of(client, f"/study/{study_id}")
    assert page.count("<b>1.00</b>") == 2
    assert "Fleiss" in page
    assert client.get(f"/study/{study_id}/figure/cases.svg").status_code == 200
    assert client.get(f"/study/{study_id}/figure/spread.svg").status_code == 404


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name-2": ""}, "two methods or more"),
        ({"name-2": "with references"}, "a name of its own"),
        ({"sets": "400"}, "fewer than 400"),
        ({"sets": "0"}, "give 1 to 500"),
        ({"class-1": "no such class"}, "no image passes the filters"),
    ],
)
def test_an_impossible_study_is_explained_and_the_form_is_kept(
    client: TestClient, change: dict[str, str], sentence: str
):
    answer = client.post("/study", data=MATCHING | change)
    assert answer.status_code == 400
    assert sentence in answer.text.lower()
    assert 'value="with references"' in answer.text


def test_the_form_of_a_study_is_kept_by_its_address(client: TestClient):
    page = client.get("/study/new", params=MATCHING | {"rows": "3", "strategy-3": "simple_template"}).text
    assert 'value="with references"' in page
    assert page.count("<legend>Method") == 3
    assert 'value="simple_template"' in page


def test_a_name_of_a_rater_is_neither_markup_nor_a_formula(service: Any, client: TestClient):
    study_id = make_study(client, MATCHING)
    evil = EVIL.partition("<script>")[0]
    for rater in (evil, "=1+2"):
        link = link_of(client, study_id, rater)
        assert "<img src=x" not in text_of(client, link)
        assert "<img src=x" not in rate(client, link, "3")
    assert "<img src=x" not in text_of(client, f"/study/{study_id}")
    lines = list(csv.DictReader(io.StringIO(text_of(client, f"/study/{study_id}/answers.csv"))))
    assert {line["rater"] for line in lines} == {evil, "'=1+2"}


def test_names_of_raters_are_limited(client: TestClient):
    study_id = make_study(client, MATCHING)
    assert client.get(f"/study/{study_id}", params={"raters": "x" * 61}).status_code == 400
    assert client.get(f"/study/{study_id}", params={"raters": "\n".join(str(n) for n in range(101))}).status_code == 400


def test_images_of_raters_carry_no_metadata(service: Any, client: TestClient):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    notes, buffer = PngInfo(), io.BytesIO()
    notes.add_text("Software", "generator of method B")
    Image.fromarray(np.asarray(class_image(3, 1))).save(buffer, format="PNG", pnginfo=notes)
    rows = []
    for reference in ("", original(3, 0).id):
        recipe = generated(3, 44, reference, prompt="only this one")
        rows.append(image_row(recipe, class_image(3, 1)) | {"image": buffer.getvalue()})
    add_images(service.workspace, rows)
    study_id = make_study(
        client, MATCHING | {"sets": "1", "run-1": "run-1", "class-1": CLASSES[3], "class-2": CLASSES[3]}
    )
    link = link_of(client, study_id, "Rita")
    for place in (0, 1):
        assert b"generator of method B" not in client.get(link.replace("?", f"/image/{place}?", 1)).content
