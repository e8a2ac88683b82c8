"""The pages over a real table: what they show, what they keep from whom, and what they write."""

import csv
import html
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from engine.serving.pages.view import FOLDER
from engine.testing.data import class_image
from tests.serving.pages_server import (
    ANN,
    BOB,
    BOBS_KEY,
    CLASSES,
    EVIL,
    KEY,
    add_images,
    generated,
    image_row,
    make_app,
    make_service,
    make_workspace,
    original,
)

MATCHING = {
    **{"task": "matching", "sets": "3", "seed": "5", "rows": "2"},
    **{"name-1": "with references", "references-1": "some", "source-1": "generative"},
    **{"name-2": "alone", "references-2": "none", "source-2": "generative"},
}
REAL_FAKE = {
    **{"task": "real_fake", "sets": "2", "seed": "5", "rows": "2"},
    **{"name-1": "photographs", "source-1": "original", "name-2": "alone", "source-2": "generative"},
}


@pytest.fixture
def service(tmp_path: Path) -> Any:
    return make_service(make_workspace(tmp_path / "workspace"))


@pytest.fixture
def client(service: Any) -> TestClient:
    return visit(service, KEY)


def visit(service: Any, key: str = "") -> TestClient:
    """A client with a key, or none."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return TestClient(make_app(service), headers=headers, follow_redirects=False)


def text_of(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


def make_study(client: TestClient, form: dict[str, str]) -> str:
    made = client.post("/study", data=form)
    assert made.status_code == 303, made.text
    return made.headers["location"].removeprefix("/study/")


def link_of(client: TestClient, study_id: str, rater: str) -> str:
    page = text_of(client, f"/study/{study_id}?raters={quote(rater)}")
    return html.unescape(re.findall(r'data-copy="([^"]+)"', page)[0])


def rate(visitor: TestClient, link: str, answer: str, screens: int = 1_000) -> str:
    """Rates screen by screen as a browser without script would; returns the last page."""
    page = text_of(visitor, link + "&agreed=1")
    while screens and 'name="at"' in page:
        at = re.findall(r'name="at" value="(\d+)"', page)[0]
        names = sorted(set(re.findall(r'name="(answer-\d+)"', page)))
        form = {"agreed": "1", "at": at, "started": "0", **dict.fromkeys(names, answer)}
        saved = visitor.post(link, data=form)
        assert saved.status_code == 303, saved.text
        page = text_of(visitor, saved.headers["location"])
        screens -= 1
    return page


def test_a_key_opens_the_pages_and_a_wrong_one_does_not(service: Any):
    visitor = visit(service)
    sent = visitor.get("/gallery?source=original", headers={"accept": "text/html"}).headers["location"]
    assert sent == "/login?next=%2Fgallery%3Fsource%3Doriginal"
    assert 'value="/gallery?source=original"' in text_of(visitor, sent)
    assert visitor.post("/login", data={"key": "wrong", "next": "/study"}).status_code == 401
    entered = visitor.post("/login", data={"key": f" {KEY} ", "next": "/gallery?source=original"})
    assert entered.headers["location"] == "/gallery?source=original"
    assert "key <b>Ann</b>" in text_of(visitor, "/gallery")
    assert visitor.post("/logout", headers={"origin": "http://testserver"}).headers["location"] == "/login"
    assert visitor.get("/gallery").status_code == 401


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "",
    ],
)
def test_after_the_login_nobody_is_sent_to_another_site(service: Any, place: str):
    assert visit(service).post("/login", data={"key": KEY, "next": place}).headers["location"] == "/"


def test_scripts_are_small_and_nothing_is_inline():
    scripts = [path for path in (FOLDER / "static").iterdir() if path.suffix == ".js"]
    assert sum(path.stat().st_size for path in scripts) <= 60 * 1024
    assert "Zero-Clause BSD" in (FOLDER / "static" / "htmx.min.js").read_text()[:200]
    for path in (FOLDER / "templates").iterdir():
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|<script(?! src=)|\son\w+=|https?://", text), path.name


def test_static_files_are_those_of_the_package(client: TestClient):
    page = text_of(client, "/")
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert client.get("/static/..%2Fview.py").status_code == 404
    assert client.get("/static/view.py").status_code == 404


def test_compare_asks_each_retriever_for_the_same_recipe(client: TestClient):
    page = text_of(client, "/?prompt=a+photo+of+a+red+apple&seed=7&size=32x32&model=mini&steps=3")
    bodies = [html.unescape(one) for one in re.findall(r'data-request="([^"]+)"', page)]
    assert len(bodies) == 3
    assert all(
        '"seed": 7' in body and '"num_inference_steps": 3' in body and '"stream": true' in body for body in bodies
    )
    assert [re.findall(r'"retriever": "(\w+)"', body) for body in bodies] == [[], ["zero"], ["normal"]]
    assert "imagefoundry train-retriever" in page
    assert 'data-start="yes"' in page


def test_a_link_from_another_site_generates_nothing_by_itself(client: TestClient):
    page = client.get("/?prompt=x&seed=1", headers={"sec-fetch-site": "cross-site"}).text
    assert 'data-start="yes"' not in page
    page = client.get("/add?name=x&seed=1", headers={"sec-fetch-site": "cross-site"}).text
    assert 'data-start="yes"' not in page


def test_compare_says_how_to_fill_an_empty_table(tmp_path: Path):
    import pyarrow as pa

    from engine.store import Workspace

    workspace = Workspace.open(tmp_path / "empty")
    workspace.ensure_columns(pa.schema([("owner", pa.string())]))
    client = visit(make_service(workspace), KEY)
    assert "imagefoundry build-database" in text_of(client, "/?prompt=x")
    assert "No image is in the table yet" in text_of(client, "/gallery")
    assert "No image failed" in text_of(client, "/errors")


def test_a_number_that_is_none_is_named(client: TestClient):
    assert "Seed is &#39;many&#39;" in text_of(client, "/?prompt=x&seed=many", 400)


def test_the_gallery_is_newest_first_and_pages_hold_still_while_rows_are_added(service: Any, client: TestClient):
    workspace = service.workspace
    newest_last = [row["id"] for row in workspace.scan(["id"], ANN.sees).read_all().to_pylist()]
    first = text_of(client, "/gallery")
    shown = re.findall(r'href="/gallery/([0-9a-f]{32})"', first)
    assert shown == newest_last[::-1][:60]
    assert first.count('src="data:image/png') == 60
    add_images(workspace, [image_row(generated(2, 5_000 + number), class_image(2, number)) for number in range(5)])
    older = html.unescape(re.findall(r'rel="next" href="([^"]+)"', first)[0])
    second = re.findall(r'href="/gallery/([0-9a-f]{32})"', text_of(client, older))
    assert shown + second == newest_last[::-1]


def test_the_gallery_filters(client: TestClient):
    page = text_of(client, "/gallery?class=red+apple&source=original&dataset=things&run=run-1")
    assert page.count("<li>") == 6
    assert text_of(client, "/gallery?strategy=retrieval_augmented&generator=mini").count("<li>") == 24
    assert "No image passes these filters" in text_of(client, "/gallery?class=it%27s")


def test_nobody_sees_the_images_of_another_key(service: Any, client: TestClient):
    secret = generated(0, 999, prompt="secret of Bob").id
    for path in ("/gallery", "/gallery?class=red+apple", "/gallery?q=red+apple"):
        assert secret not in text_of(client, path)
    text_of(client, f"/gallery/{secret}", 404)
    text_of(client, f"/gallery/{secret}/related", 404)
    theirs = visit(service, BOBS_KEY)
    assert secret in text_of(theirs, "/gallery?class=red+apple")
    assert "secret of Bob" in text_of(theirs, f"/gallery/{secret}")
    add_images(
        service.workspace, [image_row(original(0, 70), class_image(0, 70), owner=BOB.key_id, class_name="hidden thing")]
    )
    assert "hidden thing" not in text_of(client, "/gallery/choices")
    assert "hidden thing" in text_of(theirs, "/gallery/choices")


def test_choices_count_new_rows(service: Any, client: TestClient):
    assert "6 images" not in text_of(client, "/gallery/choices")
    assert '<option value="red apple">18 images' in text_of(client, "/gallery/choices")
    add_images(service.workspace, [image_row(original(0, 50), class_image(0, 50))])
    assert '<option value="red apple">19 images' in text_of(client, "/gallery/choices")


def test_the_gallery_searches_by_text_image_and_row(client: TestClient):
    page = text_of(client, "/gallery?q=a+green+tree&source=original")
    assert page.count("green tree</span>") == 6
    like = original(1, 0).id
    assert "distance 0.020" in text_of(client, f"/gallery?like={like}")
    found = client.post(
        "/gallery?source=original", files={"image": ("x.png", image_row(original(2, 1), class_image(2, 1))["image"])}
    )
    assert "nearest to your image" in found.text
    assert client.post("/gallery", files={"image": ("x.png", b"")}).status_code == 400


def test_a_row_shows_its_lineage(client: TestClient):
    real = original(0, 0)
    made = generated(0, 0, real.id)
    page = text_of(client, f"/gallery/{made.id}")
    for shown in ("a photo of a red apple", "controlnet", "run-1", "0.008", f'href="/gallery/{real.id}"', "float32"):
        assert shown in page, shown
    related = text_of(client, f"/gallery/{real.id}/related")
    assert f'href="/gallery/{made.id}"' in related
    assert "near-duplicate" in related


def test_exact_duplicates_are_found(service: Any, client: TestClient):
    twin = generated(0, 12_345)
    add_images(service.workspace, [image_row(twin, class_image(0, 0))])
    page = text_of(client, f"/gallery/{original(0, 0).id}/related")
    part = page[page.index("Exact duplicates") : page.index("Nearest images")]
    assert f'href="/gallery/{twin.id}"' in part


def test_requests_of_other_keys_are_anonymous(service: Any, client: TestClient):
    from engine.serving.requests import ImageRequest

    body = {"prompt": "a photo of a red apple", "seed": 3, "stream": True}
    client.post("/v1/images/generations", json=body)
    recipe = service.plan(ANN, ImageRequest(**body), request_id="r", endpoint="e").recipes[0]
    page = text_of(client, f"/gallery/{recipe.id}")
    assert "<td>Ann" in page
    theirs = visit(service, BOBS_KEY)
    theirs.post("/v1/images/generations", json=body)  # the table has it, so it is not made again
    page = text_of(theirs, f"/gallery/{recipe.id}")
    assert "another key" in page
    assert "<td>Bob" in page
    assert "Ann" not in page


def test_errors_by_reason(client: TestClient):
    page = text_of(client, "/errors")
    assert "out of paint" in page
    assert "1 recipe of runs" in page
    assert "No image failed" in text_of(client, "/errors?stage=embed")


def test_text_of_users_is_never_markup(service: Any, client: TestClient):
    recipe = generated(0, 31_337, prompt=EVIL, class_name=EVIL, strategy=EVIL, dataset=EVIL)
    add_images(service.workspace, [image_row(recipe, class_image(0, 1))])
    paths = ["/gallery", f"/gallery/{recipe.id}", "/gallery/choices", f"/?prompt={quote(EVIL)}&size=1x1"]
    paths += [
        f"/add?name={quote(EVIL)}",
        f"/gallery?class={quote(EVIL)}&q={quote(EVIL)}",
        f"/errors?reason={quote(EVIL)}",
    ]
    paths += [f"/login?next=/{quote(EVIL)}", f"/study/new?name-1={quote(EVIL)}", f"/gallery/{recipe.id}/related"]
    for path in paths:
        page = text_of(client, path)
        assert "<img src=x" not in page, path
        assert "<script>" not in page, path
    assert "<img src=x" not in text_of(client, f"/gallery/{quote(EVIL, safe='')}", 404)


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
