"""`build_app`: the FastAPI application over a `Service`: the API, the pages, and the guard in front of both."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from engine import __version__
from engine.serving.access import Access
from engine.serving.api import health, images, models
from engine.serving.errors import ApiError
from engine.serving.keys import KeyRing
from engine.serving.pages import router as pages
from engine.serving.requests import describe
from engine.serving.service import Service

log = logging.getLogger("imagefoundry.serving")
BYTES_PER_MB = 1_000_000
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {}}}
    for status, text in (
        (400, "The request is wrong; `param` names the field."),
        (401, "The key is missing or wrong."),
        (404, "There is no such thing, or the key may not see it."),
        (413, "The request is too large."),
        (429, "The key's rate or budget is used up."),
        (503, "The queue is full; try again after `retry-after` seconds."),
        (504, "The deadline has passed."),
    )
}


def build_app(service: Service, keys: KeyRing) -> ASGIApp:
    """The whole application.

    Args:
        service: answers the requests.
        keys: the API keys that are let in.
    """
    app = FastAPI(
        title="imagefoundry",
        version=__version__,
        description="Retrieval-augmented image generation. OpenAI's images API, with further fields of our own.",
        docs_url=None,  # both pages load scripts from another host
        redoc_url=None,
        responses=ERRORS,
    )
    for module in (images, models, health):
        app.include_router(module.router(service))
    app.include_router(pages(service, keys))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failure)
    return Access(
        app,
        keys,
        max_body_bytes=service.config.max_body_mb * BYTES_PER_MB,
        session_secret=service.secret,
        log_prompts=service.config.log_prompts,
    )


def answer(error: ApiError) -> Response:
    """An error as an answer."""
    return JSONResponse(error.body(), error.status, error.headers())


async def _api_error(request: Request, error: ApiError) -> Response:
    return answer(error)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    param, message = describe(error.errors()[0])
    return answer(ApiError(400, message, code="invalid_value", param=param or None))


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return answer(ApiError(error.status_code, str(error.detail), code=code))


async def _failure(request: Request, error: Exception) -> Response:
    log.error("request %s failed", getattr(request.state, "request_id", ""), exc_info=error)
    return answer(ApiError(500, "the server failed; the log has the reason under this request id", code="server_error"))
