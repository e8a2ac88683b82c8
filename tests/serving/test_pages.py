"""The pages over a real table: what they show, what they keep from whom, and what they write."""

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from engine.serving.pages.view import FOLDER
from engine.testing.data import class_image
from tests.serving.pages_client import text_of, visit
from tests.serving.pages_server import (
    ANN,
    BOB,
    BOBS_KEY,
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
