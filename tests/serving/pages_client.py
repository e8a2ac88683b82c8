"""Visitors of the pages without a browser, and what they do in studies."""

import html
import re
from typing import Any
from urllib.parse import quote

from starlette.testclient import TestClient

from tests.serving.pages_server import make_app

MATCHING = {
    **{"task": "matching", "sets": "3", "seed": "5", "rows": "2"},
    **{"name-1": "with references", "references-1": "some", "source-1": "generative"},
    **{"name-2": "alone", "references-2": "none", "source-2": "generative"},
}
REAL_FAKE = {
    **{"task": "real_fake", "sets": "2", "seed": "5", "rows": "2"},
    **{"name-1": "photographs", "source-1": "original", "name-2": "alone", "source-2": "generative"},
}


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
