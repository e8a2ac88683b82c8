"""Add an object (`/add`): photographs and a name; the same prompt with and without them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.serving.pages.compare import Contender, may_start, read_settings
from engine.serving.pages.view import caller_of, page
from engine.serving.service import Service

MAX_PHOTOGRAPHS = 20
CONTENDERS = (
    Contender("none", "Without them", "The generator alone."),
    Contender("zero", "With them", "The most similar of your photographs is the reference."),
)


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page."""

    @pages.get("/add")
    async def add(request: Request) -> Response:
        caller_of(request)
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
            columns=columns,
            specs=service.specs,
            most=MAX_PHOTOGRAPHS,
            start=bool(name) and may_start(request),
        )
