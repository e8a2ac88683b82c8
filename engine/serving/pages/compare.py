"""Compare (`/`): one prompt by the generator alone and with the references of every retriever, side by side."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from engine.serving.errors import ApiError
from engine.serving.pages.view import caller_of, page
from engine.serving.service import Service

NUM_PREVIEWS = 2


@dataclass(frozen=True)
class Contender:
    """One column of the page."""

    retriever: str
    title: str
    about: str
    missing: str = ""
    """The command that makes it, if the server lacks it."""


CONTENDERS = (
    Contender("none", "Generator alone", "No reference."),
    Contender("zero", "Zero-RAG", "The reference that plain CLIP finds.", "imagefoundry build-database"),
    Contender("normal", "Normal-RAG", "A retriever trained on captions alone.", "imagefoundry train-retriever"),
    Contender(
        "realrag", "RealRAG", "A retriever trained on what the generator gets wrong.", "imagefoundry train-retriever"
    ),
)


class Settings(BaseModel):
    """What the address of the page says."""

    prompt: str = ""
    model: str = ""
    seed: int = 0
    size: str = ""
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    k: int = 1
    strength: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all advanced settings are at their defaults."""
        advanced = (self.steps, self.guidance, self.negative or None, self.strength)
        return advanced == (None, None, None, None) and self.k == 1

    def body(self, retriever: str, **filter: list[str]) -> str:
        """JSON body of the API's request for one column."""
        asked: dict[str, Any] = {"prompt": self.prompt, "seed": self.seed, "stream": True, "queue_events": True}
        asked |= {"partial_images": NUM_PREVIEWS}
        for name, value in (
            *(("model", self.model), ("size", self.size), ("negative_prompt", self.negative)),
            *(("num_inference_steps", self.steps), ("guidance_scale", self.guidance)),
        ):
            if value not in ("", None):
                asked[name] = value
        if retriever != "none":
            asked |= {"retriever": retriever, "k": self.k}
            if self.strength is not None:
                asked["reference_scale"] = self.strength
            if filter:
                asked["filter"] = filter
        return json.dumps(asked)


def read_settings(request: Request) -> Settings:
    """The settings in the address; an empty field is at its default. Raises ApiError (400) for what is no number."""
    given = {name: value for name, value in request.query_params.items() if name in Settings.model_fields and value}
    try:
        return Settings.model_validate(given)
    except ValueError as error:
        wrong = error.errors()[0]["loc"][0]  # type: ignore[attr-defined]
        raise ApiError(400, f"{wrong} is {given[wrong][:40]!r}; give a number") from None


def may_start(request: Request) -> bool:
    """Whether the page may generate at once: not when another site's link led here, since images cost money."""
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page."""

    @pages.get("/")
    async def compare(request: Request) -> Response:
        caller_of(request)
        settings = read_settings(request)
        names, has_database = await asyncio.gather(
            asyncio.to_thread(service.retrievers), asyncio.to_thread(_has_database, service)
        )
        columns = [
            {
                "contender": one,
                "is_there": one.retriever in names and (one.retriever != "zero" or has_database),
                "body": settings.body(one.retriever),
            }
            for one in CONTENDERS
        ]
        return page(
            request,
            "compare.html",
            settings=settings,
            columns=columns,
            specs=service.specs,
            workspace=service.config.workspace,
            start=bool(settings.prompt.strip()) and may_start(request),
        )


def _has_database(service: Service) -> bool:
    scanner = service.workspace.dataset("images").scanner(columns=["id"], filter="source = 'original'", limit=1)
    return bool(scanner.to_table().num_rows)
