"""Templates, static files and errors of the pages."""

import mimetypes
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from engine.reports.tables import format_usd
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.requests import describe

FOLDER = Path(__file__).parent
STATIC = ("pages.css", "pages.js", "htmx.min.js", "icon.svg")
HEADERS = {"cache-control": "no-store"}


def page(request: Request, name: str, /, *, status: int = 200, **shown: Any) -> HTMLResponse:
    """The HTML of a template, in which every value is escaped."""
    caller = getattr(request.state, "caller", None)
    text = _templates().get_template(name).render(caller=caller, path=request.url.path, **shown)
    return HTMLResponse(text, status, HEADERS)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["static"] = lambda name: f"/static/{name}?v={_versions()[name]}"
    templates.filters |= {
        "usd": lambda value: "$0" if not value else format_usd(value),
        "seconds": seconds,
        "count": lambda value: f"{value:,}",
        "when": lambda moment: f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        "sentence": lambda text: text[:1].upper() + text[1:].rstrip(".") + ".",
        "path": lambda text: quote(str(text), safe=""),
        "number": lambda value: "–" if value is None or value != value else f"{value:.2f}",
    }
    return templates


def seconds(value: float) -> str:
    """Seconds with about three digits."""
    return f"{1e3 * value:.0f} ms" if 0 < value < 1 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def caller_of(request: Request) -> Caller:
    """The caller behind a request. Raises ApiError (401) without one."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise ApiError(401, "log in first", code="invalid_api_key")
    return caller


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class PageRoute(APIRoute):
    """Shows errors to people as a page instead of the API's JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors as pages."""
        handle = super().get_route_handler()

        async def handle_or_show(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                problem = error
            except RequestValidationError as error:
                problem = ApiError(400, describe(error.errors()[0])[1])
            if "hx-request" in request.headers:
                return page(request, "problem.html", status=200, problem=problem)
            answer = page(request, "error.html", status=problem.status, problem=problem)
            answer.headers.update(problem.headers())
            return answer

        return handle_or_show


def static_routes(pages: APIRouter) -> None:
    """`/static/NAME` of the few static files."""

    @pages.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in STATIC:
            raise ApiError(404, f"there is no file {name[:64]!r}")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        kept = "public, max-age=31536000, immutable"  # a changed file has another address
        return Response(_content(name), media_type=kind, headers={"cache-control": kept})


@cache
def _content(name: str) -> bytes:
    return (FOLDER / "static" / name).read_bytes()


@cache
def _versions() -> dict[str, str]:
    return {name: blake2b(_content(name), digest_size=6).hexdigest() for name in STATIC}
