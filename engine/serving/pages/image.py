"""One image of the gallery (`/gallery/{id}`): its recipe, run, requests, references, and the images related to it."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.recipe import Recipe
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.orders import Search
from engine.serving.pages.thumbnails import COLUMNS, caption, content_address, inline_pictures
from engine.serving.pages.view import caller_of, page
from engine.serving.service import Service
from engine.sources.kinds import SOURCES
from engine.store.newest import newest
from engine.store.rows import quote

NUM_RELATED = 24
NEAR_DUPLICATE = 0.05
"""Cosine distance up to which an image is called a near-duplicate."""


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page and its part with the related images."""

    @pages.get("/gallery/{image_id}")
    async def image(request: Request, image_id: str) -> Response:
        caller = caller_of(request)
        row = await service.image(caller, image_id)
        run, requests, reference = await asyncio.gather(
            _run(service, row["run_id"]), _requests(service, caller, row["id"]), _reference(service, caller, row)
        )
        recipe = Recipe.from_dict(row)
        default = Recipe(source="", dataset="", class_index=0, class_name="").as_dict()
        used = {name: value for name, value in recipe.as_dict().items() if value != default[name]}
        return page(
            request,
            "image.html",
            row=row,
            name=caption(row),
            recipe=used,
            run=run,
            requests=requests,
            reference=reference,
            address=content_address(row["id"], None),
        )

    @pages.get("/gallery/{image_id}/related")
    async def related(request: Request, image_id: str) -> Response:
        caller = caller_of(request)
        row = await service.image(caller, image_id)
        (near, problem), used, equal = await asyncio.gather(
            _near(service, caller, row["id"]),
            _where(service, caller, f"reference_id = {quote(row['id'])}"),
            _where(service, caller, f"content_hash = {quote(row['content_hash'])} AND id <> {quote(row['id'])}"),
        )
        parts = [
            ("Images that used it as a reference", used, "No image used it."),
            ("Exact duplicates", equal, "No other image has the same pixels."),
            ("Nearest images", near, problem or "No other image has an embedding."),
        ]
        return page(request, "related.html", parts=parts, near=NEAR_DUPLICATE)


async def _run(service: Service, run_id: str) -> dict[str, Any] | None:
    found = await service.rows("runs", f"run_id = {quote(run_id)}")
    return found[0] if found else None


async def _requests(service: Service, caller: Caller, image_id: str) -> list[dict[str, Any]]:
    """Requests that were answered with the image, newest first; of other keys, only that they asked."""
    found = await service.rows("requests", f"image_id = {quote(image_id)}")
    for row in found:
        row["is_own"] = row["key_id"] == caller.key_id
        if not row["is_own"]:
            row |= {"end_user": "", "request_id": ""}
    return sorted(found, key=lambda row: row["requested_at"], reverse=True)


async def _reference(service: Service, caller: Caller, row: dict[str, Any]) -> dict[str, Any] | None:
    if not row["reference_id"]:
        return None
    try:
        found = await service.image(caller, row["reference_id"], ["id", *COLUMNS])
    except ApiError:  # it is gone, or another key's
        return {"id": row["reference_id"], "picture": "", "caption": "not in this table"}
    return (await _pictured(service, [found]))[0]


async def _where(service: Service, caller: Caller, condition: str) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        where = f"{caller.sees} AND {condition}"
        found = newest(service.workspace.dataset("images"), where, limit=NUM_RELATED)
        rows: list[dict[str, Any]] = service.workspace.fetch(found["id"].to_pylist(), COLUMNS).to_pylist()
        return rows

    return await _pictured(service, await asyncio.to_thread(read))


async def _near(service: Service, caller: Caller, image_id: str) -> tuple[list[dict[str, Any]], str]:
    """The images nearest to it, with their distances, and why there are none."""
    try:
        hits = await service.search(Search(caller, image_id=image_id, k=NUM_RELATED + 1, sources=SOURCES))
    except ApiError as error:
        return [], error.message
    distances = {hit.id: hit.distance for hit in hits if hit.id != image_id}
    found = await asyncio.to_thread(service.workspace.fetch, list(distances), COLUMNS)
    rows = [row | {"distance": distances[row["id"]]} for row in found.to_pylist()][:NUM_RELATED]
    return await _pictured(service, rows), ""


async def _pictured(service: Service, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    await asyncio.to_thread(inline_pictures, service, rows)
    return [row | {"caption": caption(row)} for row in rows]
