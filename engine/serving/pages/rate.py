"""A rater's screens (`/rate/{study_id}`): consent, one set at a time, thanks. Raters never see methods, ids or items.

The signature in the link is all that a rater needs. Images and answers go by their place in the rater's own order.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from engine.evaluation.rating import SCALES
from engine.images import decode_image, encode_png
from engine.serving.errors import ApiError
from engine.serving.pages.study_rows import (
    StoredStudy,
    count_answers,
    put_answers,
    read_answers,
    read_study,
)
from engine.serving.pages.view import HEADERS, now, page
from engine.serving.service import Service
from engine.serving.signatures import check_rater, rater_path

LONGEST_SECONDS = 3_600.0
"""A rater who takes longer was away."""
MAX_CHANGES = 50
"""Answers per image that a rater may write; a link must not fill the table."""


@dataclass(frozen=True)
class Sheet:
    """A study in the order of one rater."""

    study: StoredStudy
    rater: str
    screens: list[list[dict[str, Any]]]
    """Rows of the items of each set, with their `place`."""
    answers: dict[str, int]
    """Item → newest answer."""

    @property
    def first_open(self) -> int:
        """Number of the first screen (from 1) that lacks an answer; one more than there are if none does."""
        is_open = (any(row["item"] not in self.answers for row in rows) for rows in self.screens)
        return next((number for number, one in enumerate(is_open, 1) if one), len(self.screens) + 1)

    @property
    def num_done(self) -> int:
        """Number of screens with all answers."""
        return sum(all(row["item"] in self.answers for row in rows) for rows in self.screens)


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the screens."""

    @pages.get("/rate/{study_id}")
    async def screen(
        request: Request,
        study_id: str,
        rater: Annotated[str, Query()] = "",
        token: Annotated[str, Query()] = "",
        agreed: Annotated[bool, Query()] = False,
        at: Annotated[int | None, Query()] = None,
    ) -> Response:
        sheet = await _sheet(service, study_id, rater, token)
        link = rater_path(study_id, rater, service.secret)
        if not sheet.answers and not agreed:
            return page(request, "consent.html", sheet=sheet, link=link, scale=SCALES[sheet.study.ratings.task])
        number = sheet.first_open if at is None else at
        if not 1 <= number <= len(sheet.screens):
            return page(request, "thanks.html", sheet=sheet, link=link)
        return _ask(request, sheet, number, link)

    @pages.post("/rate/{study_id}")
    async def answer(
        request: Request, study_id: str, rater: Annotated[str, Query()] = "", token: Annotated[str, Query()] = ""
    ) -> Response:
        sheet = await _sheet(service, study_id, rater, token)
        link = rater_path(study_id, rater, service.secret)
        form = await request.form()
        number, started = _whole(form.get("at")), _decimal(form.get("started"))
        if not 1 <= number <= len(sheet.screens) or form.get("agreed") != "1":
            raise ApiError(400, "this form is not complete; open your link again")
        rows = sheet.screens[number - 1]
        given = [_whole(form.get(f"answer-{row['place']}")) for row in rows]
        if any(one not in SCALES[sheet.study.ratings.task] for one in given):
            return _ask(request, sheet, number, link, "Rate every image, then go on.", status=400)
        if await count_answers(service, study_id, rater) >= MAX_CHANGES * sheet.study.ratings.items.num_rows:
            raise ApiError(429, "the answers were changed too often; they are saved as they are")
        seconds = min(max(0.0, time.time() - started), LONGEST_SECONDS) if started else 0.0
        same = {"study_id": study_id, "rater": rater, "seconds": seconds, "answered_at": now()}
        await put_answers(
            service, [same | {"item": row["item"], "answer": one} for row, one in zip(rows, given, strict=True)]
        )
        was_open = number == sheet.first_open
        return RedirectResponse(f"{link}&agreed=1" + ("" if was_open else f"&at={number + 1}"), 303, HEADERS)

    @pages.get("/rate/{study_id}/image/{place}")
    async def image(
        study_id: str, place: int, rater: Annotated[str, Query()] = "", token: Annotated[str, Query()] = ""
    ) -> Response:
        sheet = await _sheet(service, study_id, rater, token)
        shown = [row for rows in sheet.screens for row in rows]
        if not 0 <= place < len(shown):
            raise ApiError(404, f"there is no image {place}")
        found = await asyncio.to_thread(service.workspace.fetch, [shown[place]["image_id"]], ["image"])
        if not found.num_rows:
            raise ApiError(404, "this image is no longer in the table")
        # encoded anew, so that neither format nor metadata tells the method
        data = await asyncio.to_thread(lambda: encode_png(decode_image(found["image"][0].as_py())))
        headers = HEADERS | {"cache-control": "private, max-age=3600"}
        return Response(data, media_type="image/png", headers=headers)


async def _sheet(service: Service, study_id: str, rater: str, token: str) -> Sheet:
    """Raises ApiError: 403 for a wrong signature, 404 if the study is gone."""
    if not check_rater(study_id, rater, token, service.secret):
        raise ApiError(403, "this link is not valid; ask for it again", code="invalid_link")
    study, answers = await asyncio.gather(read_study(service, study_id), read_answers(service, study_id, rater))
    screens: dict[int, list[dict[str, Any]]] = {}
    for place, row in enumerate(study.ratings.order(rater).to_pylist()):
        screens.setdefault(row["set"], []).append(row | {"place": place})
    return Sheet(study, rater, list(screens.values()), {row["item"]: row["answer"] for row in answers})


def _ask(request: Request, sheet: Sheet, number: int, link: str, problem: str = "", status: int = 200) -> Response:
    """The screen with a set, its earlier answers chosen."""
    return page(
        request,
        "rate.html",
        status=status,
        sheet=sheet,
        task=sheet.study.ratings.task,
        number=number,
        rows=sheet.screens[number - 1],
        scale=SCALES[sheet.study.ratings.task],
        link=link,
        started=f"{time.time():.3f}",
        problem=problem,
    )


def _whole(text: Any) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else -1


def _decimal(text: Any) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return 0.0
    return value if 0 <= value < 1e12 else 0.0
