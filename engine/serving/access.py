"""`Access`: ASGI middleware that lets a request in, or refuses it, before its body is read."""

import asyncio
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.keys import KeyRing
from engine.serving.signatures import COOKIE, check_signature, local_path, session_key_id

LOGIN = "/login"
OPEN_PATHS = ("/healthz", LOGIN, "/static/", "/rate/")
"""Pages below `/rate/` check the signature in their address themselves."""
MIN_SECRET_BYTES = 16
SAFETY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # with `no-referrer`, browsers send `Origin: null` with the forms of our own pages
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer."""
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_CONTENT = re.compile(r"/v1/images/([^/]+)/content")

log = logging.getLogger(__name__)


class Access:
    """Asks every request for a key, limits its body, and sets the headers that protect the pages.

    A request has a key (`Authorization: Bearer KEY`), the cookie of a session, or the signature of one image; only
    `open_paths` need none. Its `Caller` is then in `scope["state"]["caller"]` (None on an open path without a key), and its
    id in `scope["state"]["request_id"]` and in the header `x-request-id` of the answer. Refusals: 401 without a valid key
    (a browser is sent to `/login`), 403 for a forged address or a request of another site, 413 for a large body.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        *,
        max_body_bytes: int,
        session_secret: bytes,
        open_paths: Collection[str] = OPEN_PATHS,
        log_prompts: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            app: the application behind it.
            keys: the keys that are accepted.
            max_body_bytes: larger bodies are refused.
            session_secret: what sessions and addresses are signed with, 16 bytes or more; the same in every process.
            open_paths: paths that need no key; one that ends with `/` opens everything below it.
            log_prompts: whether the log of an error may show its message, which can quote a prompt.
            clock: Unix seconds.
        """
        assert len(session_secret) >= MIN_SECRET_BYTES, "a short secret can be guessed"
        self._app = app
        self._keys = keys
        self._max_body_bytes = max_body_bytes
        self._secret = session_secret
        self._open = frozenset(path for path in open_paths if not path.endswith("/"))
        self._open_below = tuple(path for path in open_paths if path.endswith("/"))
        self._log_prompts = log_prompts
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it, and a browser opens one without the rules of fetch
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request.of(scope)
        answer = _Answer(send, request.id)
        # a copy: the server may share one dict between all requests
        scope["state"] = {**(scope.get("state") or {}), "request_id": request.id, "caller": None}
        try:
            scope["state"]["caller"] = await self._caller(request)
            self._check_length(request)
        except ApiError as error:
            if error.status == 401 and request.wants_page:
                await answer.redirect(f"{request.root}{LOGIN}?{urlencode({'next': request.target})}")
            else:
                await answer.error(error)
            return
        await self._run(scope, receive, answer)

    async def _caller(self, request: "_Request") -> Caller | None:
        """The caller, or None on an open path. Raises ApiError if the request may not go on."""
        try:
            if self._keys.is_stale():  # a read of a bucket must not hold up the other requests
                return await asyncio.to_thread(self._authenticated, request)
            return self._authenticated(request)
        except ApiError:
            raise
        except Exception as error:
            log.error("request %s: the keys cannot be read (%s)", request.id, type(error).__name__)
            message = "the keys cannot be read just now; try again"
            raise ApiError(503, message, code="keys_unavailable", retry_after=1) from error

    def _authenticated(self, request: "_Request") -> Caller | None:
        is_open = request.path in self._open or request.path.startswith(self._open_below)
        if (key := request.bearer) is not None:
            caller = self._keys.find(key)
            if caller is None and not is_open:
                raise _unauthorised("the API key is wrong or was revoked; send another one")
            return caller  # no site can make a browser send this header to another
        caller = self._of_session(request)
        if caller is None and (signed := self._of_signature(request)) is not None:
            return signed
        if caller is None and not is_open:
            raise _unauthorised("the request has no API key; send it as `Authorization: Bearer KEY`")
        if request.method in UNSAFE and not request.is_same_site(needs_origin=request.cookie is not None):
            message = "the request comes from another site; send it from this server's own pages"
            raise ApiError(403, message, code="cross_site")
        return caller

    def _of_session(self, request: "_Request") -> Caller | None:
        key_id = session_key_id(request.cookie or "", self._secret, self._clock())
        return None if key_id is None else self._keys.by_id(key_id)

    def _of_signature(self, request: "_Request") -> Caller | None:
        """The caller that an image's address was signed for, or None if it has no signature. Raises ApiError for a wrong one."""
        match = _CONTENT.fullmatch(request.path)
        if match is None or request.method != "GET":
            return None
        query = parse_qs(request.query) if request.query.count("&") < 100 else {}
        key_id, expires, signature = (query.get(name, [""])[0] for name in ("key", "expires", "signature"))
        if not signature:
            return None
        is_valid = check_signature(match[1], key_id, expires, signature, self._secret, now=self._clock())
        caller = self._keys.by_id(key_id) if is_valid else None
        if caller is None:
            message = "the address of the image is wrong or has expired; ask for a new one with your API key"
            raise ApiError(403, message, code="invalid_signature")
        return caller

    def _check_length(self, request: "_Request") -> None:
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ApiError(400, "the header content-length is not a number; correct it")
        if len(length) > 18 or int(length) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        message = f"the body is larger than {self._max_body_bytes / 1e6:,.6g} MB; send a smaller one"
        return ApiError(413, message, code="body_too_large")

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # an app may turn this error into an answer of its own, which is then dropped
                answer.refusal = self._too_large()
                raise answer.refusal
            return message

        try:
            await self._app(scope, limited, answer.send)
        except Exception as error:
            if answer.started:
                raise
            if answer.refusal is None:
                log.error("request %s failed: %s", answer.request_id, self._described(error))
                message = f"the server failed; try again, and report the request id {answer.request_id}"
                answer.refusal = ApiError(500, message, code="internal_error")
        if answer.refusal is not None and not answer.started:
            await answer.error(answer.refusal)

    def _described(self, error: Exception) -> str:
        if self._log_prompts:
            return "".join(traceback.format_exception(error))
        return f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}"


@dataclass
class _Request:
    """What `Access` reads of a scope."""

    method: str
    root: str
    path: str
    """Decoded, below the root, as the routes see it."""
    query: str
    target: str
    """Path and query as the client wrote them, if they are a place on this server; otherwise `/`."""
    headers: dict[str, str]
    """By lower-case name; the first of several."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, scope: Scope) -> "_Request":
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
        root, query = scope.get("root_path", ""), scope["query_string"].decode("latin-1")
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        target = local_path(raw.decode("latin-1") + (f"?{query}" if query else ""))
        request = cls(scope["method"], root, scope["path"].removeprefix(root), query, target, headers)
        if _REQUEST_ID.fullmatch(given := headers.get("x-request-id", "")):
            request.id = given
        return request

    @property
    def bearer(self) -> str | None:
        """The key in `Authorization: Bearer KEY`; None without this header, or with another scheme."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    @property
    def cookie(self) -> str | None:
        """Value of the cookie of a session."""
        return cookie_parser(self.headers.get("cookie", "")).get(COOKIE)

    @property
    def wants_page(self) -> bool:
        """Whether a browser asks for a page, and has sent no key of which it should learn that it is wrong."""
        return "text/html" in self.headers.get("accept", "") and self.bearer is None

    def is_same_site(self, *, needs_origin: bool) -> bool:
        """Whether `Origin`, or without it `Referer`, names the host that was asked; neither is good enough if `needs_origin`."""
        origin = self.headers.get("origin") or self.headers.get("referer")
        if origin is None:
            return not needs_origin
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        host = self.headers.get("host", "")
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()


@dataclass
class _Answer:
    """The answer to one request: adds the headers, and drops an answer of the app once the request is refused."""

    _send: Send
    request_id: str
    started: bool = False
    refusal: ApiError | None = None

    async def send(self, message: Message) -> None:
        """Passes on what the app answers."""
        if self.refusal is not None and not self.started:
            return
        if message["type"] == "http.response.start":
            message = {**message, "headers": self._headers(message.get("headers", ()))}
            self.started = True
        await self._send(message)

    async def error(self, error: ApiError) -> None:
        """Answers with an error object."""
        headers = {"content-type": "application/json", **error.headers()}
        if error.status == 401:
            headers["www-authenticate"] = 'Bearer realm="imagefoundry"'
        await self._answer(error.status, headers, json.dumps(error.body()).encode())

    async def redirect(self, location: str) -> None:
        """Sends a browser to another page, to GET it."""
        await self._answer(303, {"location": location}, b"")

    async def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        headers = {**headers, "content-length": str(len(body)), "cache-control": "no-store"}
        start = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.refusal = None
        await self.send({"type": "http.response.start", "status": status, "headers": start})
        await self.send({"type": "http.response.body", "body": body})

    def _headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        ours = {**SAFETY, "x-request-id": self.request_id}
        set_here = {name.encode() for name in ours}
        kept = [
            (name, value)
            for name, value in given
            if name.lower() not in set_here and not name.lower().startswith(b"access-control-")
        ]
        return [*kept, *((name.encode(), value.encode()) for name, value in ours.items())]


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")
