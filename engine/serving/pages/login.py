"""`/login`: a key becomes a session cookie; `/logout` ends the session."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from engine.serving.keys import KeyRing
from engine.serving.pages.view import HEADERS, page
from engine.serving.service import Service
from engine.serving.signatures import local_path, login, logout


def routes(pages: APIRouter, service: Service, keys: KeyRing) -> None:
    """Adds the page."""

    @pages.get("/login")
    async def form(request: Request, next: str = "/") -> Response:
        return page(request, "login.html", next=local_path(next), wrong=False)

    @pages.post("/login")
    async def enter(
        request: Request, key: Annotated[str, Form(max_length=500)] = "", next: Annotated[str, Form()] = "/"
    ) -> Response:
        is_secure = request.url.scheme == "https"
        cookie = await asyncio.to_thread(login, keys, service.secret, key.strip(), secure=is_secure)
        if cookie is None:
            return page(request, "login.html", status=401, next=local_path(next), wrong=True)
        return RedirectResponse(local_path(next), 303, HEADERS | {"set-cookie": cookie})

    @pages.post("/logout")
    async def leave(request: Request) -> Response:
        return RedirectResponse("/login", 303, {"set-cookie": logout(secure=request.url.scheme == "https")})
