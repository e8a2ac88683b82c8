"""Errors (`/errors`): recipes of runs that could not be made, by reason."""

import asyncio
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.serving.pages.view import caller_of, page
from engine.serving.planning import DATASET
from engine.serving.service import Service
from engine.store.newest import newest
from engine.store.rows import quote

NUM_REASONS = 50
NUM_ROWS = 100
_SHOWN = ("id", "stage", "reason", "source", "dataset", "class_name", "generator", "run_id")


def routes(pages: APIRouter, service: Service) -> None:
    """Adds the page."""

    @pages.get("/errors")
    async def errors(
        request: Request,
        stage: Annotated[str, Query(max_length=300)] = "",
        reason: Annotated[str, Query(max_length=1_000)] = "",
        run: Annotated[str, Query(max_length=300)] = "",
    ) -> Response:
        caller_of(request)
        given = {"stage": stage, "reason": reason, "run_id": run}
        counts, rows = await asyncio.to_thread(_read, service, {name: one for name, one in given.items() if one})
        return page(
            request,
            "errors.html",
            counts=counts[:NUM_REASONS],
            others=sum(number for *_, number in counts[NUM_REASONS:]),
            total=sum(number for *_, number in counts),
            rows=rows,
            given={"stage": stage, "reason": reason, "run": run},
        )


def _read(service: Service, given: dict[str, str]) -> tuple[list[tuple[str, str, int]], list[dict[str, Any]]]:
    """(Stage, reason, number), the most frequent first, and the newest rows."""
    # the table has no owner, so what was made for a request stays out
    parts = [f"dataset <> {quote(DATASET)}", *(f"{name} = {quote(value)}" for name, value in given.items())]
    where, table = " AND ".join(parts), service.workspace.dataset("errors")
    reasons = table.to_table(columns=["stage", "reason"], filter=where)
    counts = Counter(zip(reasons["stage"].to_pylist(), reasons["reason"].to_pylist(), strict=True))
    rows = newest(table, where, limit=NUM_ROWS, columns=_SHOWN).to_pylist()
    return [(stage, reason, number) for (stage, reason), number in counts.most_common()], rows
