"""The gallery: all images that the caller may see, newest first, filtered, or nearest to a text or an image."""

import asyncio
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, UploadFile
from starlette.responses import Response

from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.orders import Search
from engine.serving.pages.choices import Choices
from engine.serving.pages.filters import Filters
from engine.serving.pages.thumbnails import COLUMNS, caption, inline_pictures
from engine.serving.pages.view import caller_of, page
from engine.serving.requests import MAX_K
from engine.serving.service import Service
from engine.sources.kinds import SOURCES
from engine.store.newest import POSITION, newest

NUM_THUMBNAILS = 60
_LIST = (*COLUMNS, "dataset", "strategy", "generator", "run_id")


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page and its parts."""
    choices = Choices()

    @pages.get("/gallery")
    async def gallery(
        request: Request,
        before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
        q: Annotated[str, Query(max_length=2_000)] = "",
        like: Annotated[str, Query(max_length=64)] = "",
        retriever: Annotated[str, Query(max_length=300)] = "zero",
    ) -> Response:
        caller, filters = caller_of(request), Filters.of(request.query_params)
        problem, more = "", None
        if q.strip() or like:
            search = Search(
                caller, text=q.strip() if not like else "", image_id=like, retriever=retriever or "zero", k=MAX_K
            )
            rows, problem = await _found(service, search, filters)
        else:
            rows, more = await asyncio.to_thread(_newest, service, caller, filters, before)
        return page(
            request,
            "gallery.html",
            **_shown(filters, rows, problem),
            q=q,
            like=like,
            before=before,
            more=None if more is None else filters.address("/gallery", before=more),
        )

    @pages.post("/gallery")
    async def search_by_image(request: Request, image: Annotated[UploadFile, File()]) -> Response:
        caller, filters = caller_of(request), Filters.of(request.query_params)
        data = await image.read()
        if not data:
            raise ApiError(400, "no image was chosen; choose a file", param="image")
        rows, problem = await _found(service, Search(caller, image=data, k=MAX_K), filters)
        shown = _shown(filters, rows, problem)
        return page(request, "gallery.html", **shown, q="", like="an image", before=None, more=None)

    @pages.get("/gallery/choices")
    async def offered(request: Request) -> Response:
        caller, filters = caller_of(request), Filters.of(request.query_params)
        values = await asyncio.to_thread(lambda: choices.of(service.workspace.dataset("images"), caller.key_id))
        return page(request, "choices.html", values=values, filters=filters)


def _shown(filters: Filters, rows: list[dict[str, Any]], problem: str) -> dict[str, Any]:
    for row in rows:
        row["caption"] = caption(row)
    return {"filters": filters, "rows": rows, "problem": problem, "sources": SOURCES}


def _newest(
    service: Service, caller: Caller, filters: Filters, before: int | None
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of rows, newest first, and the position before which the next one begins."""
    images = service.workspace.dataset("images")
    found = newest(images, filters.condition(caller.sees), limit=NUM_THUMBNAILS + 1, before=before)
    ids = found["id"].to_pylist()[:NUM_THUMBNAILS]
    more = found[POSITION][NUM_THUMBNAILS - 1].as_py() if found.num_rows > NUM_THUMBNAILS else None
    return _rows(service, ids), more


def _rows(service: Service, ids: list[str]) -> list[dict[str, Any]]:
    """Rows with their pictures, in the order of `ids`."""
    rows = service.workspace.fetch(ids, _LIST).to_pylist()
    inline_pictures(service, rows)
    return list(rows)


async def _found(service: Service, search: Search, filters: Filters) -> tuple[list[dict[str, Any]], str]:
    """The nearest images that pass the filters, and why there are none."""
    try:
        hits = await service.search(
            replace(
                search,
                datasets=(filters.dataset,) if filters.dataset else (),
                class_names=(filters.class_name,) if filters.class_name else (),
                sources=(filters.source,) if filters.source else SOURCES,
            )
        )
    except ApiError as error:
        return [], error.message
    distances = {hit.id: hit.distance for hit in hits}
    rows = await asyncio.to_thread(_rows, service, list(distances))
    rows = [row | {"distance": distances[row["id"]]} for row in rows if filters.allows(row)][:NUM_THUMBNAILS]
    return rows, "" if rows else "No image was found; search for something else, or remove a filter."
