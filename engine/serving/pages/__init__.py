"""The server's pages for people: compare, gallery, add an object, study. State is in the URL and in the table alone."""

from fastapi import APIRouter

from engine.serving.keys import KeyRing
from engine.serving.pages import add, compare, errors, gallery, image, login, rate, study
from engine.serving.pages.view import PageRoute, static_routes
from engine.serving.service import Service

__all__ = ["router"]


def router(service: Service, keys: KeyRing) -> APIRouter:
    """All pages and their static files.

    Every page but `/login`, `/static/…` and `/rate/…` needs `request.state.caller`; the last of these checks the signature in
    its address itself.
    """
    pages = APIRouter(route_class=PageRoute, include_in_schema=False)
    static_routes(pages)
    login.routes(pages, service, keys)
    for part in (compare, gallery, errors, image, add, rate, study):
        part.routes(pages, service)
    return pages
