"""The server's pages for people: compare, gallery, add an object, study. State is in the URL and in the table alone."""

from collections.abc import Callable

from fastapi import APIRouter

from engine.serving.pages import add, compare, errors, gallery, image, login, rate, study
from engine.serving.pages.view import PageRoute, static_routes
from engine.serving.service import Service

__all__ = ["router"]


def router(service: Service, log_in: Callable[[str], str | None] | None = None) -> APIRouter:
    """All pages and their static files. `log_in`: key → value of `Set-Cookie`, or None for a wrong key; no login page without.

    Every page but `/login`, `/static/…` and `/study/{id}/rate…` needs `request.state.caller`; the last of these checks the
    signature of its link itself.
    """
    pages = APIRouter(route_class=PageRoute, include_in_schema=False)
    static_routes(pages)
    if log_in is not None:
        login.routes(pages, log_in)
    for part in (compare, gallery, errors, image, add, rate, study):
        part.routes(pages, service)
    return pages
