"""Add an object (`/add`): photographs and a name; the same prompt with and without them."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.serving.callers import Caller
from engine.serving.pages.compare import Contender, may_start, read_settings
from engine.serving.pages.filters import Filters
from engine.serving.pages.thumbnails import COLUMNS, inline_pictures
from engine.serving.pages.view import caller_of, page
from engine.serving.service import Service
from engine.store.newest import newest

MAX_PHOTOGRAPHS = 20
CONTENDERS = (
    Contender("none", "Without them", "The generator alone."),
    Contender("zero", "With them", "The most similar of your photographs is the reference."),
)


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page."""

    @pages.get("/add")
    async def add(request: Request) -> Response:
        caller = caller_of(request)
        settings, name = read_settings(request), request.query_params.get("name", "").strip()[:200]
        if name and not settings.prompt.strip():
            settings = settings.model_copy(update={"prompt": f"a photo of a {name}"})
        columns = [
            {"contender": one, "is_there": True, "body": settings.body(one.retriever, class_names=[name])}
            for one in CONTENDERS
        ]
        return page(
            request,
            "add.html",
            settings=settings,
            name=name,
            photographs=await asyncio.to_thread(_photographs, service, caller, name) if name else [],
            columns=columns,
            specs=service.specs,
            most=MAX_PHOTOGRAPHS,
            start=bool(name) and may_start(request),
        )


def _photographs(service: Service, caller: Caller, name: str) -> list[dict[str, Any]]:
    """The newest real images of a class, with their pictures."""
    where = Filters(class_name=name, source="original").condition(caller.sees)
    found = newest(service.workspace.dataset("images"), where, limit=MAX_PHOTOGRAPHS)
    rows = service.workspace.fetch(found["id"].to_pylist(), COLUMNS).to_pylist()
    inline_pictures(service, rows)
    return [row | {"caption": name} for row in rows]
