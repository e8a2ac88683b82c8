"""`/login`: a key becomes a session cookie."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from engine.serving.pages.view import local_path, page


def routes(pages: APIRouter, log_in: Callable[[str], str | None]) -> None:
    """Adds the page."""

    @pages.get("/login")
    async def form(request: Request, next: str = "/") -> Response:
        return page(request, "login.html", next=local_path(next), wrong=False)

    @pages.post("/login")
    async def enter(
        request: Request, key: Annotated[str, Form(max_length=500)] = "", next: Annotated[str, Form()] = "/"
    ) -> Response:
        cookie = await asyncio.to_thread(log_in, key.strip()) if key.strip() else None
        if cookie is None:
            return page(request, "login.html", status=401, next=local_path(next), wrong=True)
        return RedirectResponse(local_path(next), 303, {"set-cookie": cookie, "cache-control": "no-store"})
