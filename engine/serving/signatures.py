"""What a server signs (HMAC-SHA256): the sessions of its pages, and addresses that need no key: of images, and of raters' pages."""

import base64
import hashlib
import hmac
import json
import re
import time
from urllib.parse import quote, urlencode

from engine.serving.keys import KeyRing

COOKIE = "imagefoundry_session"
SESSION_SECONDS = 12 * 3600
_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_KEY_ID = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def sign(image_id: str, key_id: str, expires: int, secret: bytes) -> str:
    """Signature (43 characters of url-safe base64) of the permission to read one image as one key until `expires` (Unix seconds)."""
    return _hmac(secret, "image", image_id, key_id, expires)


def check_signature(image_id: str, key_id: str, expires: str, signature: str, secret: bytes, *, now: float) -> bool:
    """Whether `signature` permits this image to this key, and `expires`, as it stood in the address, is not past (`now`: Unix seconds)."""
    if not _NUMBER.fullmatch(expires) or int(expires) <= now:
        return False
    return _equal(sign(image_id, key_id, int(expires), secret), signature)


def signed_path(image_id: str, key_id: str, expires: int, secret: bytes) -> str:
    """Path and query of an image's bytes that `Access` lets pass without a key until `expires` (Unix seconds)."""
    signature = sign(image_id, key_id, expires, secret)
    query = urlencode({"expires": expires, "key": key_id, "signature": signature})
    return f"/v1/images/{quote(image_id, safe='')}/content?{query}"


def rater_path(study_id: str, rater: str, secret: bytes) -> str:
    """Path and query of a rater's pages, which need no key: they show this study, and take answers under this name."""
    query = urlencode({"rater": rater, "token": _hmac(secret, "rater", study_id, rater)})
    return f"/rate/{quote(study_id, safe='')}?{query}"


def check_rater(study_id: str, rater: str, token: str, secret: bytes) -> bool:
    """Whether `token` permits to rate this study under this name."""
    return _equal(_hmac(secret, "rater", study_id, rater), token)


def session_cookie(key_id: str, secret: bytes, now: float) -> str:
    """Value of the cookie of a session that begins `now` (Unix seconds) and lasts 12 hours: `key_id.expiry.signature`."""
    assert _KEY_ID.fullmatch(key_id), f"{key_id!r} cannot stand in a cookie"
    expiry = int(now) + SESSION_SECONDS
    return f"{key_id}.{expiry}.{_hmac(secret, 'session', key_id, expiry)}"


def session_key_id(cookie: str, secret: bytes, now: float) -> str | None:
    """The public id of the key that a session was made with; None if the cookie is not ours, was changed or is expired."""
    key_id, _, rest = cookie.partition(".")
    expiry, _, signature = rest.partition(".")
    if not _NUMBER.fullmatch(expiry) or int(expiry) <= now:
        return None
    return key_id if _equal(_hmac(secret, "session", key_id, int(expiry)), signature) else None


def login(keys: KeyRing, secret: bytes, key: str, *, now: float | None = None, secure: bool = False) -> str | None:
    """Value of `Set-Cookie` that begins a session with this API key, or None if the key is wrong.

    `secret`: the server's secret of sessions. `now`: Unix seconds, by default those of the clock. `secure`: whether the
    page came over https, so that the cookie never goes over http.
    """
    caller = keys.find(key)
    if caller is None:
        return None
    value = session_cookie(caller.key_id, secret, time.time() if now is None else now)
    return _set_cookie(value, SESSION_SECONDS, secure)


def logout(*, secure: bool = False) -> str:
    """Value of `Set-Cookie` that ends the browser's session."""
    return _set_cookie("", 0, secure)


def local_path(path: str) -> str:
    """`path` (with its query) if a browser takes it for a place on this server, otherwise `/`.

    Browsers read `//host`, `/\\host` and `/<tab>/host` as another host.
    """
    is_local = path.startswith("/") and not path.startswith("//")
    return path if is_local and path.isascii() and path.isprintable() and "\\" not in path else "/"


def _set_cookie(value: str, seconds: int, secure: bool) -> str:
    attributes = f"Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
    return f"{COOKIE}={value}; {attributes}{'; Secure' if secure else ''}"


def _hmac(secret: bytes, *parts: str | int) -> str:
    # as JSON, no two lists of parts are the same text; the first part keeps sessions and addresses apart
    digest = hmac.digest(secret, json.dumps(parts).encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _equal(expected: str, given: str) -> bool:
    # as bytes, since compare_digest refuses text that is not ASCII
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))
