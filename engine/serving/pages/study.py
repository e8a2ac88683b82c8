"""Studies (`/study`): made from the table, rated by people through links, summarised while they answer."""

import asyncio
import csv
import io
import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from engine.evaluation.rating import RatingStudy, agreement, analyse, sample_rating_study
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.pages.charts import figure, figures_of
from engine.serving.pages.study_form import StudyForm
from engine.serving.pages.study_rows import (
    StoredStudy,
    as_answers,
    own_studies,
    put_study,
    read_answers,
    read_study,
)
from engine.serving.pages.view import HEADERS, caller_of, now, page
from engine.serving.service import Service
from engine.serving.signatures import rater_path
from engine.sources.kinds import SOURCES
from engine.store.newest import newest

MAX_IMAGES = 20_000
"""Images of a method that a study is sampled from: its newest."""
MAX_RATERS = 100
MAX_RATER_CHARS = 60


@dataclass(frozen=True)
class Summary:
    """What a study has found so far."""

    methods: list[dict[str, Any]]
    """The paper's table: one row per method."""
    agreement: float
    agreement_name: str
    raters: dict[str, int]
    """Rater → number of answered images."""
    num_answers: int
    num_items: int
    version: str
    """Changes with every answer."""


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the pages."""

    @pages.get("/study")
    async def overview(request: Request) -> Response:
        return page(request, "studies.html", studies=await own_studies(service, caller_of(request).key_id))

    @pages.get("/study/new")
    async def new(request: Request) -> Response:
        caller_of(request)
        return page(request, "study_new.html", form=StudyForm.of(request.query_params), sources=SOURCES, problem="")

    @pages.post("/study")
    async def make(request: Request) -> Response:
        caller = caller_of(request)
        form = StudyForm.of(await request.form())
        try:
            study = await asyncio.to_thread(_sample, service, caller, form)
        except ValueError as error:
            return page(request, "study_new.html", status=400, form=form, sources=SOURCES, problem=str(error))
        study_id = secrets.token_hex(8)
        await put_study(service, study_id, caller.key_id, now(), study)
        return RedirectResponse(f"/study/{study_id}", 303, HEADERS)

    @pages.get("/study/{study_id}")
    async def one(request: Request, study_id: str, raters: Annotated[str, Query(max_length=10_000)] = "") -> Response:
        study = await _own(service, request, study_id)
        names = _names(raters)
        return page(
            request,
            "study.html",
            study=study,
            summary=await _summary(service, study),
            figures=figures_of(study.ratings),
            links={name: rater_path(study_id, name, service.secret) for name in names},
            raters=raters,
        )

    @pages.get("/study/{study_id}/live")
    async def live(request: Request, study_id: str, version: str = "") -> Response:
        study = await _own(service, request, study_id)
        summary = await _summary(service, study)
        if summary.version == version:
            return Response(status_code=204, headers=HEADERS)
        return page(request, "study_live.html", study=study, summary=summary, figures=figures_of(study.ratings))

    @pages.get("/study/{study_id}/figure/{name}.svg")
    async def chart(request: Request, study_id: str, name: str) -> Response:
        study = await _own(service, request, study_id)
        if name not in figures_of(study.ratings):
            raise ApiError(404, f"there is no figure {name[:64]!r}")
        answers = as_answers(await read_answers(service, study_id))
        svg = await asyncio.to_thread(figure, study.ratings, answers, name)
        return Response(svg, media_type="image/svg+xml", headers=HEADERS)

    @pages.get("/study/{study_id}/answers.csv")
    async def answers(request: Request, study_id: str) -> Response:
        study = await _own(service, request, study_id)
        text = _csv(study, await read_answers(service, study_id))
        headers = HEADERS | {"content-disposition": f'attachment; filename="study-{study_id}.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


async def _own(service: Service, request: Request, study_id: str) -> StoredStudy:
    """The caller's study. Raises ApiError (404) for another key's as for one that does not exist."""
    caller, study = caller_of(request), await read_study(service, study_id)
    if study.key_id != caller.key_id:
        raise ApiError(404, f"there is no study {study_id[:64]!r}", code="study_not_found")
    return study


def _sample(service: Service, caller: Caller, form: StudyForm) -> RatingStudy:
    """Raises ValueError with what is wrong with the form, or that there are too few images."""
    form.check()
    images, columns = service.workspace.dataset("images"), ("id", "class_name", "prompt")
    methods = {}
    for method in form.chosen:
        where = method.condition(caller.sees)
        methods[method.name] = newest(images, where, limit=MAX_IMAGES, columns=columns)
        if not methods[method.name].num_rows:
            raise ValueError(f"no image passes the filters of {method.name!r}; make some first, or change them")
    return sample_rating_study(form.task, methods, form.sets, form.seed)


async def _summary(service: Service, study: StoredStudy) -> Summary:
    rows = await read_answers(service, study.study_id)
    answers = as_answers(rows)
    found, agreed = await asyncio.to_thread(
        lambda: (analyse(study.ratings, answers).to_pylist(), agreement(study.ratings, answers) if rows else math.nan)
    )
    name = "Krippendorff's alpha" if study.ratings.task == "matching" else "Fleiss' kappa"
    raters = Counter(row["rater"] for row in rows)
    newest_at = max((row["answered_at"].timestamp() for row in rows), default=0.0)
    return Summary(
        methods=found,
        agreement=agreed,
        agreement_name=name,
        raters=dict(sorted(raters.items())),
        num_answers=len(rows),
        num_items=study.ratings.items.num_rows,
        version=f"{len(rows)}-{newest_at:.6f}",
    )


def _names(text: str) -> list[str]:
    """Names of raters, one per line or separated by commas, each once. Raises ApiError (400) for an impossible one."""
    lines = (part.strip() for line in text.splitlines() for part in line.split(","))
    names = list(dict.fromkeys(name for name in lines if name))
    if len(names) > MAX_RATERS or any(len(name) > MAX_RATER_CHARS or not name.isprintable() for name in names):
        raise ApiError(
            400, f"give {MAX_RATERS} names at most, one per line, of up to {MAX_RATER_CHARS} printable characters"
        )
    return names


def _csv(study: StoredStudy, answers: Sequence[Mapping[str, Any]]) -> str:
    """One line per answer, with what the rater did not see."""
    items = {row["item"]: row for row in study.ratings.items.to_pylist()}
    keys = {row["item"]: row for row in study.ratings.key.to_pylist()}
    names = ("rater", "set", "item", "prompt", "class_name", "method", "image_id", "answer", "seconds", "answered_at")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in sorted(answers, key=lambda row: (row["rater"], row["answered_at"])):
        whole = keys[row["item"]] | items[row["item"]] | dict(row) | {"answered_at": row["answered_at"].isoformat()}
        writer.writerow([_harmless(whole[name]) for name in names])
    return text.getvalue()


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
