"""`Access` with what browsers send: sessions, the login, other sites, and signed addresses of images."""

from urllib.parse import parse_qs, urlsplit

import pytest

from engine.serving.access import Access
from engine.serving.keys import add_key, revoke_key
from engine.serving.signatures import signed_path
from engine.store import Workspace
from tests.serving.access_app import BEARER, IMAGE, SECRET, UNREAD, access, caller, session
from tests.serving.helpers import Clock, call


@pytest.fixture
def app(workspace: Workspace, clock: Clock) -> Access:
    return access(workspace, clock)


def test_a_session_gets_in_for_twelve_hours(app: Access, workspace: Workspace, clock: Clock):
    _, key_id = add_key(workspace, "ada")
    cookie = session(key_id, clock)
    assert caller(call(app, "GET", "/v1/whoami", cookie)) == key_id
    clock.wait(12 * 3600)
    assert call(app, "GET", "/v1/whoami", cookie).status == 401


def test_a_session_that_was_changed_is_refused(app: Access, workspace: Workspace, clock: Clock):
    _, ada = add_key(workspace, "ada")
    _, bob = add_key(workspace, "bob")
    cookie = session(ada, clock)["cookie"]
    assert call(app, "GET", "/v1/whoami", {"cookie": cookie.replace(ada, bob)}).status == 401
    assert call(app, "GET", "/v1/whoami", {"cookie": cookie[:-1]}).status == 401


def test_a_session_of_a_key_that_nobody_has_is_refused(app: Access, clock: Clock):
    assert call(app, "GET", "/v1/whoami", session("key-0", clock)).status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://server:8001"},
        {"origin": "http://server"},
        {"origin": "http://server:8000.evil.example"},
        {"origin": "http://server:8000@evil.example"},
        {"origin": "file://server:8000"},
        {"origin": "http://[server:8000"},
        {"referer": "https://evil.example/http://server:8000/"},
        {"origin": "https://evil.example", "referer": "http://server:8000/"},
    ],
)
def test_another_site_cannot_write_with_the_cookie_of_a_browser(
    app: Access, clock: Clock, method: str, origin: dict[str, str]
):
    answer = call(app, method, "/v1/whoami", {**session("server", clock), **origin}, UNREAD)
    assert (answer.status, answer.error()["code"]) == (403, "cross_site")


@pytest.mark.parametrize(
    "origin",
    [
        {"origin": "http://server:8000"},
        {"origin": "https://SERVER:8000"},
        {"referer": "http://server:8000/gallery?text=x"},
        {"origin": "http://server:8000", "referer": "https://evil.example"},
    ],
)
def test_our_own_pages_write_with_the_cookie(app: Access, clock: Clock, origin: dict[str, str]):
    assert caller(call(app, "POST", "/v1/whoami", {**session("server", clock), **origin})) == "server"


def test_a_page_is_read_with_the_cookie_from_anywhere(app: Access, clock: Clock):
    headers = {**session("server", clock), "referer": "https://elsewhere.example/"}
    assert caller(call(app, "GET", "/v1/whoami", headers)) == "server"


def test_a_key_in_the_header_needs_no_origin(app: Access):
    assert caller(call(app, "POST", "/v1/whoami", BEARER)) == "server"
    assert caller(call(app, "POST", "/v1/whoami", {**BEARER, "origin": "https://app.example"})) == "server"


def test_another_site_cannot_log_a_browser_in(app: Access):
    assert call(app, "POST", "/login", {"origin": "https://evil.example"}, UNREAD).status == 403
    assert call(app, "POST", "/login", {"origin": "http://server:8000"}).status == 200
    assert call(app, "POST", "/login").status == 200, "a program without a cookie sends no origin"


def test_a_browser_without_a_key_is_sent_to_the_login_and_back(app: Access):
    answer = call(app, "GET", "/gallery?text=a%20cat&page=2", {"accept": "text/html,*/*;q=0.8"}, UNREAD)
    assert answer.status == 303
    location = urlsplit(answer.header("location"))
    assert (location.scheme, location.netloc, location.path) == ("", "", "/login")
    assert parse_qs(str(location.query)) == {"next": ["/gallery?text=a%20cat&page=2"]}


def test_a_browser_with_an_old_session_is_sent_to_the_login(app: Access, clock: Clock):
    cookie = session("server", clock)
    clock.wait(13 * 3600)
    assert call(app, "GET", "/gallery", {"accept": "text/html", **cookie}).status == 303


def test_a_program_is_not_sent_to_the_login(app: Access):
    assert call(app, "GET", "/gallery", {"accept": "*/*"}).status == 401
    assert call(app, "GET", "/gallery", {"accept": "text/html", "authorization": "Bearer if-wrong"}).status == 401


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("//evil.example/", b"//evil.example/"),
        ("/\\evil.example", b"/\\evil.example"),
        ("/\t/evil.example", b"/\t/evil.example"),
        ("http://evil.example", b"http://evil.example"),
    ],
)
def test_the_login_never_sends_a_browser_to_another_site(app: Access, path: str, raw: bytes):
    answer = call(app, "GET", path, {"accept": "text/html"}, raw_path=raw)
    assert answer.header("location") == "/login?next=%2F"


def test_a_path_with_a_line_end_adds_no_header(app: Access):
    answer = call(app, "GET", "/a\r\nset-cookie: x=1", {"accept": "text/html"})
    assert answer.header("location") == "/login?next=%2Fa%250D%250Aset-cookie%253A%2520x%253D1"
    assert answer.header("set-cookie") is None


def address(clock: Clock, key_id: str = "server", image_id: str = IMAGE) -> str:
    return signed_path(image_id, key_id, int(clock()) + 60, SECRET)


def test_a_signed_address_gets_in_as_its_key_until_it_expires(app: Access, workspace: Workspace, clock: Clock):
    _, key_id = add_key(workspace, "ada")
    signed = address(clock, key_id)
    assert caller(call(app, "GET", signed)) == key_id
    clock.wait(60)
    answer = call(app, "GET", signed)
    assert (answer.status, answer.error()["code"]) == (403, "invalid_signature")


def test_a_signature_opens_no_other_image_key_path_or_method(app: Access, workspace: Workspace, clock: Clock):
    _, bob = add_key(workspace, "bob")
    signed = address(clock)
    assert call(app, "GET", signed).status == 200
    assert call(app, "GET", signed.replace(IMAGE, "f" * 16), body=UNREAD).status == 403
    assert call(app, "GET", signed.replace("key=server", f"key={bob}"), body=UNREAD).status == 403
    assert call(app, "GET", signed.replace("expires=1", "expires=2"), body=UNREAD).status == 403
    assert call(app, "GET", signed[:-1], body=UNREAD).status == 403
    assert call(app, "GET", signed.replace("/content", ""), body=UNREAD).status == 401
    assert call(app, "GET", signed.replace(f"/{IMAGE}/", f"/x/../{IMAGE}/"), body=UNREAD).status == 401
    assert call(app, "GET", signed.replace(f"/v1/images/{IMAGE}/content", "/v1/whoami"), body=UNREAD).status == 401
    assert call(app, "GET", f"/x{signed}", body=UNREAD).status == 401
    assert call(app, "GET", signed.replace("/content", "/content/recipe"), body=UNREAD).status == 401
    assert call(app, "DELETE", signed, body=UNREAD).status == 401
    assert call(app, "GET", f"/v1/images/{IMAGE}/content", body=UNREAD).status == 401


def test_the_address_of_a_revoked_key_is_refused_within_a_second(app: Access, workspace: Workspace, clock: Clock):
    _, key_id = add_key(workspace, "ada")
    signed = address(clock, key_id)
    assert call(app, "GET", signed).status == 200
    revoke_key(Workspace.open(workspace.uri), key_id)
    clock.wait(1.0)
    assert call(app, "GET", signed).status == 403


def test_a_query_of_very_many_fields_is_not_parsed(app: Access, clock: Clock):
    assert call(app, "GET", f"{address(clock)}&{'a&' * 10_000}").status == 401
