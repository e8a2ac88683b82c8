"""An application behind `Access` that says who called it, and what its tests send."""

import json
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel

from engine.serving.access import Access
from engine.serving.keys import OWN, KeyRing, hash_key
from engine.serving.signatures import COOKIE, session_cookie
from engine.store import Workspace
from tests.serving.helpers import Answer, Clock

SECRET = b"s" * 32
KEY = "if-the-servers-own-key"
BEARER = {"authorization": f"Bearer {KEY}"}
MAX_BODY = 1000
UNREAD = None
IMAGE = "0123456789abcdef"


class Prompt(BaseModel):
    """The body of a request."""

    prompt: str


def application() -> FastAPI:
    """An application that says who called it."""
    app = FastAPI()

    @app.api_route("/v1/whoami", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    @app.api_route("/login", methods=["GET", "POST"])
    @app.get("/healthz")
    @app.get("/static/page.css")
    @app.get("/v1/images/{image_id}/content")
    @app.get("/v1/images/{image_id}")
    async def whoami(request: Request) -> dict[str, Any]:
        caller = request.state.caller
        return {"caller": caller and caller.key_id, "request_id": request.state.request_id}

    @app.post("/v1/images/generations")
    async def generate(prompt: Prompt) -> dict[str, str]:
        return {"prompt": prompt.prompt}

    return app


def access(workspace: Workspace, clock: Clock, app: Any = None, **more: Any) -> Access:
    keys = KeyRing(workspace, {hash_key(KEY): OWN}, clock)
    settings = {"max_body_bytes": MAX_BODY, "session_secret": SECRET, "clock": clock} | more
    return Access(app or application(), keys, **settings)


def session(key_id: str, clock: Clock) -> dict[str, str]:
    """The header of a browser that has logged in."""
    return {"cookie": f"theme=dark; {COOKIE}={session_cookie(key_id, SECRET, clock())}"}


def caller(answer: Answer) -> str | None:
    """The id of the caller that the application saw."""
    assert answer.status == 200, answer.body
    found: str | None = json.loads(answer.body)["caller"]
    return found
