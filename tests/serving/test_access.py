"""`Access`: who gets in, what is refused before the body is read, and the headers of every answer."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from engine.serving.access import SAFETY, Access
from engine.serving.keys import add_key, revoke_key
from engine.serving.signatures import COOKIE
from engine.store import Workspace
from tests.serving.access_app import (
    BEARER,
    KEY,
    MAX_BODY,
    UNREAD,
    access,
    caller,
    session,
)
from tests.serving.helpers import Clock, call


@pytest.fixture
def app(workspace: Workspace, clock: Clock) -> Access:
    return access(workspace, clock)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
def test_a_right_key_gets_in_and_the_route_knows_the_caller(app: Access, scheme: str):
    assert caller(call(app, "GET", "/v1/whoami", {"authorization": f"{scheme} {KEY}"})) == "server"


def test_a_key_of_the_table_gets_in(app: Access, workspace: Workspace):
    key, key_id = add_key(workspace, "ada")
    assert caller(call(app, "GET", "/v1/whoami", {"authorization": f"Bearer {key}"})) == key_id


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer if-wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer if-é"},
        {"authorization": f"Bearer {KEY}x"},
        {"x-api-key": KEY},
    ],
)
def test_no_key_or_a_wrong_one_is_answered_before_the_body_is_read(app: Access, headers: dict[str, str]):
    answer = call(app, "POST", "/v1/images/generations", headers, UNREAD)
    assert answer.status == 401
    assert (answer.error()["type"], answer.error()["code"]) == ("authentication_error", "invalid_api_key")
    assert answer.header("www-authenticate") == 'Bearer realm="imagefoundry"'
    assert answer.header("content-type") == "application/json"


def test_a_real_client_gets_401_and_its_body_is_not_taken(app: Access):
    async def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await client.post("/v1/images/generations", content=body(), headers={"authorization": "Bearer x"})

    assert asyncio.run(send()).status_code == 401


def test_a_large_body_with_a_wrong_key_is_answered_401(app: Access):
    headers = {"authorization": "Bearer if-wrong", "content-length": "40000000"}
    assert call(app, "POST", "/v1/images/generations", headers, UNREAD).status == 401


def test_a_revoked_key_and_its_session_are_refused_within_a_second(app: Access, workspace: Workspace, clock: Clock):
    key, key_id = add_key(workspace, "ada")
    ways = [{"authorization": f"Bearer {key}"}, session(key_id, clock)]
    assert [call(app, "GET", "/v1/whoami", way).status for way in ways] == [200, 200]
    revoke_key(Workspace.open(workspace.uri), key_id)
    clock.wait(1.0)
    assert [call(app, "GET", "/v1/whoami", way).status for way in ways] == [401, 401]


def test_keys_are_read_outside_the_event_loop(app: Access, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    in_a_loop = []
    dataset = workspace.dataset

    def noted(name: str) -> Any:
        try:
            in_a_loop.append(asyncio.get_running_loop() is not None)
        except RuntimeError:
            in_a_loop.append(False)
        return dataset(name)

    monkeypatch.setattr(workspace, "dataset", noted)
    call(app, "GET", "/v1/whoami", BEARER)
    assert in_a_loop == [False]


def test_a_store_that_does_not_answer_lets_nobody_in_and_leaves_the_health_check_alone(
    app: Access, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    def fail(name: str) -> None:
        raise OSError("the bucket does not answer")

    monkeypatch.setattr(workspace, "dataset", fail)
    answer = call(app, "GET", "/v1/whoami", BEARER)
    assert (answer.status, answer.error()["code"], answer.header("retry-after")) == (503, "keys_unavailable", "1")
    assert "bucket" not in answer.body.decode()
    assert call(app, "GET", "/healthz").status == 200


@pytest.mark.parametrize("path", ["/healthz", "/static/page.css", "/login"])
def test_open_paths_need_no_key(app: Access, path: str):
    assert caller(call(app, "GET", path)) is None
    assert caller(call(app, "GET", path, {"authorization": "Bearer if-wrong"})) is None
    assert caller(call(app, "GET", path, BEARER)) == "server"


@pytest.mark.parametrize(
    "path", ["/healthz/", "/healthzx", "/static", "/login/x", "/x/healthz", "/", "/docs", "/openapi.json"]
)
def test_paths_like_the_open_ones_need_a_key(app: Access, path: str):
    assert call(app, "GET", path, body=UNREAD).status == 401


def test_the_open_paths_are_below_the_root_that_the_server_gives(app: Access):
    assert call(app, "GET", "/app/healthz", root_path="/app").status == 200
    assert call(app, "GET", "/app/v1/whoami", root_path="/app").status == 401
    answer = call(app, "GET", "/app/v1/whoami", {"accept": "text/html"}, root_path="/app")
    assert answer.header("location") == "/app/login?next=%2Fapp%2Fv1%2Fwhoami"


def test_a_websocket_is_closed(app: Access):
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket", "path": "/healthz", "headers": []}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_applications_start_and_end_are_passed_on(workspace: Workspace, clock: Clock):
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(access(workspace, clock, inner)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_a_state_that_the_server_shares_between_requests_is_not_written_to(app: Access):
    shared = {"model": "mini"}
    assert caller(call(app, "GET", "/v1/whoami", BEARER, state=shared)) == "server"
    assert shared == {"model": "mini"}


def test_a_length_over_the_limit_is_refused_unread(app: Access):
    answer = call(app, "POST", "/v1/images/generations", {**BEARER, "content-length": "1001"}, UNREAD)
    assert (answer.status, answer.error()["code"]) == (413, "body_too_large")
    assert answer.error()["message"] == "the body is larger than 0.001 MB; send a smaller one"


@pytest.mark.parametrize(("length", "status"), [("9" * 5000, 413), ("-1", 400), ("1e3", 400), ("²", 400), ("", 400)])
def test_a_strange_length_is_refused_unread(app: Access, length: str, status: int):
    assert call(app, "POST", "/v1/images/generations", {**BEARER, "content-length": length}, UNREAD).status == status


def test_a_body_at_the_limit_is_passed_on(app: Access):
    body = json.dumps({"prompt": ""}).encode()
    body = json.dumps({"prompt": "x" * (MAX_BODY - len(body))}).encode()
    assert len(body) == MAX_BODY
    headers = {**BEARER, "content-type": "application/json"}
    assert call(app, "POST", "/v1/images/generations", headers, body).status == 200


def test_a_chunked_body_over_the_limit_is_refused_while_it_streams(app: Access):
    taken = []

    def chunks() -> Any:
        for number in range(1000):
            taken.append(number)
            yield b"x" * 300

    headers = {**BEARER, "content-type": "application/json", "transfer-encoding": "chunked"}
    answer = call(app, "POST", "/v1/images/generations", headers, chunks())
    assert (answer.status, answer.error()["code"]) == (413, "body_too_large")
    assert taken == [0, 1, 2, 3], "the rest of the body was read"


def test_a_body_longer_than_its_length_says_is_refused(app: Access):
    headers = {**BEARER, "content-type": "application/json", "content-length": "10"}
    assert call(app, "POST", "/v1/images/generations", headers, [b"x" * 600, b"x" * 600]).status == 413


def test_a_large_body_is_refused_on_open_paths_too(app: Access):
    assert call(app, "POST", "/login", {"content-length": "1001"}, UNREAD).status == 413


def test_an_answer_that_has_begun_is_broken_off_by_a_large_body(workspace: Workspace, clock: Clock):
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["more_body"]:
            pass

    with pytest.raises(Exception, match="the body is larger"):
        call(access(workspace, clock, echo), "POST", "/v1/whoami", BEARER, [b"x" * 600, b"x" * 600])


@pytest.mark.parametrize("given", ["a", "req_1-2.3:4", "x" * 128, "!~"])
def test_the_clients_request_id_is_kept(app: Access, given: str):
    answer = call(app, "GET", "/v1/whoami", {**BEARER, "x-request-id": given})
    assert json.loads(answer.body)["request_id"] == answer.header("x-request-id") == given


@pytest.mark.parametrize("given", ["", "a b", "a\r\nset-cookie: x=1", "a\n", "x" * 129, "é", "a\tb", "\x7f", "\x00"])
def test_a_request_id_that_could_be_more_than_an_id_is_replaced(app: Access, given: str):
    answer = call(app, "GET", "/v1/whoami", {**BEARER, "x-request-id": given})
    made = answer.header("x-request-id")
    assert made is not None
    assert len(made) == 32
    assert int(made, 16) >= 0
    assert json.loads(answer.body)["request_id"] == made
    assert answer.header("set-cookie") is None


def test_two_requests_have_two_ids(app: Access):
    assert len({call(app, "GET", "/healthz").header("x-request-id") for _ in range(10)}) == 10


ANSWERS = {
    "200": ("GET", "/v1/whoami", BEARER),
    "303": ("GET", "/gallery", {"accept": "text/html"}),
    "401": ("POST", "/v1/whoami", {"origin": "https://evil.example"}),
    "403": ("POST", "/login", {"origin": "https://evil.example"}),
    "404": ("GET", "/nothing", BEARER),
    "405": ("OPTIONS", "/v1/whoami", {**BEARER, "origin": "https://evil.example"}),
    "413": ("POST", "/v1/whoami", {**BEARER, "content-length": "1001"}),
    "422": ("POST", "/v1/images/generations", BEARER),
}


@pytest.mark.parametrize("status", ANSWERS)
def test_every_answer_has_the_headers_that_protect_pages_and_an_id_and_none_of_cors(app: Access, status: str):
    method, path, headers = ANSWERS[status]
    answer = call(app, method, path, {**headers, "x-request-id": "mine"})
    assert answer.status == int(status)
    assert {name: answer.header(name) for name in SAFETY} == SAFETY
    assert answer.header("x-request-id") == "mine"
    assert not [name for name, _ in answer.headers if name.startswith("access-control-")]


def test_the_policy_allows_nothing_from_elsewhere():
    assert SAFETY["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert "no-referrer" not in SAFETY["referrer-policy"], "browsers would send `Origin: null` with our own forms"


def test_what_the_application_sets_does_not_weaken_the_headers(workspace: Workspace, clock: Clock):
    async def weak(scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"Content-Security-Policy", b"default-src *"),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"X-Request-Id", b"other"),
            (b"cache-control", b"max-age=60"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    answer = call(access(workspace, clock, weak), "GET", "/v1/whoami", {**BEARER, "x-request-id": "mine"})
    assert answer.header("content-security-policy") == SAFETY["content-security-policy"]
    assert answer.header("x-request-id") == "mine"
    assert answer.header("cache-control") == "max-age=60"
    assert answer.header("access-control-allow-origin") is None


def failing(message: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError(message)

    return app


def test_a_failure_is_an_error_object_with_all_headers(workspace: Workspace, clock: Clock):
    answer = call(access(workspace, clock, failing("x")), "GET", "/v1/x", {**BEARER, "x-request-id": "mine"})
    assert (answer.status, answer.error()["type"], answer.error()["code"]) == (500, "server_error", "internal_error")
    assert answer.error()["message"] == "the server failed; try again, and report the request id mine"
    assert {name: answer.header(name) for name in SAFETY} == SAFETY


@pytest.mark.parametrize("log_prompts", [False, True])
def test_the_log_of_a_failure_quotes_a_prompt_only_if_asked_to(
    workspace: Workspace, clock: Clock, log_prompts: bool, caplog: pytest.LogCaptureFixture
):
    app = access(workspace, clock, failing("cannot draw a secret cat"), log_prompts=log_prompts)
    call(app, "GET", "/v1/x", {**BEARER, "x-request-id": "mine"})
    assert "request mine failed" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "in app" in caplog.text, "the log does not say where"
    assert ("a secret cat" in caplog.text) == log_prompts


def test_no_key_is_logged_or_echoed(app: Access, workspace: Workspace, clock: Clock, caplog: pytest.LogCaptureFixture):
    key, key_id = add_key(workspace, "ada")
    secrets = {"authorization": f"Bearer {key}x"}, session(key_id + "x", clock), {"authorization": f"Basic {key}"}
    with caplog.at_level(logging.DEBUG):
        answers = [call(app, "POST", "/v1/images/generations", headers, UNREAD) for headers in secrets]
        answers.append(call(access(workspace, clock, failing(key)), "GET", "/x", {"authorization": f"Bearer {key}"}))
    assert [answer.status for answer in answers] == [401, 401, 401, 500]
    said = caplog.text + "".join(str(answer) for answer in answers)
    assert key not in said
    assert COOKIE not in said


def test_a_short_secret_is_not_taken(workspace: Workspace, clock: Clock):
    with pytest.raises(AssertionError, match="can be guessed"):
        access(workspace, clock, session_secret=b"short")
