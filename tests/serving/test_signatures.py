"""Sessions and signed addresses: what was changed, has expired, or was signed for something else is refused."""

import hmac
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.keys import KeyRing, add_key
from engine.serving.signatures import (
    COOKIE,
    check_signature,
    local_path,
    login,
    logout,
    session_cookie,
    session_key_id,
    sign,
    signed_path,
)
from engine.store import Workspace

SECRET, OTHER = b"s" * 32, b"t" * 32
NOW = 1_000_000.0


def test_a_session_names_its_key_for_twelve_hours():
    cookie = session_cookie("key-a", SECRET, NOW)
    assert cookie.split(".")[:2] == ["key-a", str(1_000_000 + 12 * 3600)]
    assert session_key_id(cookie, SECRET, NOW) == "key-a"
    assert session_key_id(cookie, SECRET, NOW + 12 * 3600 - 1) == "key-a"
    assert session_key_id(cookie, SECRET, NOW + 12 * 3600) is None


def test_a_session_that_was_changed_is_refused():
    cookie = session_cookie("key-a", SECRET, NOW)
    key_id, expiry, signature = cookie.split(".")
    changed = [
        f"key-b.{expiry}.{signature}",
        f"{key_id}.{int(expiry) + 1}.{signature}",
        f"{key_id}.{expiry}.{signature[:-1]}",
        f"{key_id}.{expiry}.{signature}=",
        f"{key_id}.{expiry}.",
        f"{key_id}.{expiry}",
        f"{key_id}.x.{signature}",
        f"{key_id}.{'9' * 400}.{signature}",
        f"{key_id}.{expiry}.é",
        "",
        "..",
    ]
    assert [session_key_id(one, SECRET, NOW) for one in changed] == [None] * len(changed)
    assert session_key_id(cookie, OTHER, NOW) is None


@given(st.text())
def test_no_text_is_a_session_by_accident(text: str):
    assert session_key_id(text, SECRET, NOW) is None


def test_an_address_is_signed_for_one_image_one_key_and_one_time():
    signature = sign("image", "key-a", 1_000_060, SECRET)

    def valid(image: str = "image", key: str = "key-a", expires: str = "1000060", secret: bytes = SECRET) -> bool:
        return check_signature(image, key, expires, signature, secret, now=NOW)

    assert valid()
    assert not valid(image="other")
    assert not valid(key="key-b")
    assert not valid(expires="1000061")
    assert not valid(secret=OTHER)
    assert not check_signature("image", "key-a", "1000060", signature[:-1], SECRET, now=NOW)


def test_an_address_expires():
    signature = sign("image", "key-a", 1_000_060, SECRET)
    assert check_signature("image", "key-a", "1000060", signature, SECRET, now=1_000_059.9)
    assert not check_signature("image", "key-a", "1000060", signature, SECRET, now=1_000_060)
    for expires in ("", "never", "-1", "1e99", "１０００００６０", "1_000_060", "9" * 400):
        assert not check_signature("image", "key-a", expires, signature, SECRET, now=NOW)


def test_parts_cannot_be_moved_from_one_field_into_the_next():
    assert sign("a\nb", "c", 1, SECRET) != sign("a", "b\nc", 1, SECRET)
    assert sign('a", "b', "c", 1, SECRET) != sign("a", 'b", "c', 1, SECRET)


def test_a_session_is_no_address_and_an_address_no_session():
    expiry = int(NOW) + 12 * 3600
    signature = session_cookie("key-a", SECRET, NOW).split(".")[2]
    assert signature not in {sign(image, "key-a", expiry, SECRET) for image in ("", "session", "image")}


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared = []
    compare = hmac.compare_digest
    cookie, signature = session_cookie("key-a", SECRET, NOW), sign("image", "key-a", 1_000_060, SECRET)
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    session_key_id(cookie, SECRET, NOW)
    check_signature("image", "key-a", "1000060", signature, SECRET, now=NOW)
    assert [a == b for a, b in compared] == [True, True]


def test_a_signed_path_holds_what_check_signature_takes():
    parts = urlsplit(signed_path("a/b ä", "key-a", 1_000_060, SECRET))
    assert parts.path == "/v1/images/a%2Fb%20%C3%A4/content"
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert set(query) == {"expires", "key", "signature"}
    assert check_signature("a/b ä", query["key"], query["expires"], query["signature"], SECRET, now=NOW)


def test_a_login_takes_a_right_key_and_sets_a_cookie_that_scripts_and_other_sites_cannot_use(workspace: Workspace):
    key, key_id = add_key(workspace, "ada")
    ring = KeyRing(workspace)
    assert login(ring, SECRET, "if-wrong", now=NOW) is None
    value = login(ring, SECRET, key, now=NOW)
    assert value is not None
    assert key not in value
    morsel = SimpleCookie(value)[COOKIE]
    assert session_key_id(morsel.value, SECRET, NOW) == key_id
    assert (morsel["httponly"], morsel["samesite"], morsel["path"], morsel["max-age"]) == (True, "Strict", "/", "43200")
    assert not morsel["secure"]
    assert not morsel["domain"]
    assert SimpleCookie(login(ring, SECRET, key, now=NOW, secure=True))[COOKIE]["secure"]


def test_a_logout_ends_the_cookie():
    morsel = SimpleCookie(logout())[COOKIE]
    assert (morsel.value, morsel["max-age"], morsel["path"]) == ("", "0", "/")
    assert session_key_id(morsel.value, SECRET, NOW) is None


@pytest.mark.parametrize("path", ["/", "/gallery", "/gallery?text=a%20cat&page=2", "/v1/models", "/a?next=//other"])
def test_a_local_path_stays(path: str):
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
        "/\n/evil.example", "/a\r\nset-cookie: x=1", "https://evil.example", "javascript:alert(1)", "evil.example",
        " //evil.example", "/\u2028/evil.example",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_becomes_the_first_page(path: str):
    assert local_path(path) == "/"
