"""The tables `studies` and `ratings`: a study and its answers as rows."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from engine.evaluation.rating import RatingStudy, answer_table
from engine.serving.errors import ApiError
from engine.serving.rows import to_bytes
from engine.serving.service import Service
from engine.store.rows import quote
from engine.store.schemas import RATING_SCHEMA, STUDY_SCHEMA

ITEMS = ("item", "set", "prompt", "image_id")
KEY = ("item", "method", "class_name")


@dataclass(frozen=True)
class StoredStudy:
    """A study of the table."""

    study_id: str
    key_id: str
    """The key that made it, and alone sees its results."""
    created_at: datetime
    ratings: RatingStudy

    @property
    def sets(self) -> int:
        """Number of sets, each of which is a screen for raters."""
        return len(set(self.ratings.items["set"].to_pylist()))

    @property
    def methods(self) -> list[str]:
        """Names of the compared methods."""
        return sorted(set(self.ratings.key["method"].to_pylist()))


async def put_study(service: Service, study_id: str, key_id: str, created_at: datetime, study: RatingStudy) -> None:
    """Commits a study."""
    same = {"study_id": study_id, "task": study.task, "created_at": created_at, "key_id": key_id}
    keys = {row["item"]: row for row in study.key.to_pylist()}
    rows = [same | row | keys[row["item"]] for row in study.items.to_pylist()]
    await _put(service, "studies", rows, STUDY_SCHEMA)


async def read_study(service: Service, study_id: str) -> StoredStudy:
    """The study with this id. Raises ApiError (404) if there is none."""
    found = await service.rows("studies", f"study_id = {quote(study_id[:64])}")
    if not found:
        raise ApiError(404, f"there is no study {study_id[:64]!r}", code="study_not_found")
    # the writer may have committed it twice if its answer was lost; sorted as `sample_rating_study` sorts
    rows = [row for _, row in sorted({row["item"]: row for row in found}.items())]
    table, first = pa.Table.from_pylist(rows), rows[0]
    ratings = RatingStudy(first["task"], table.select(ITEMS), table.select(KEY))
    return StoredStudy(study_id, first["key_id"], first["created_at"], ratings)


async def own_studies(service: Service, key_id: str) -> list[dict[str, Any]]:
    """`study_id`, `task`, `created_at`, `images` and `methods` of a key's studies, newest first."""

    def read() -> list[dict[str, Any]]:
        studies = service.workspace.dataset("studies")
        columns = ["study_id", "task", "created_at", "method"]
        found: dict[str, dict[str, Any]] = {}
        for row in studies.to_table(columns=columns, filter=f"key_id = {quote(key_id)}").to_pylist():
            one = found.setdefault(row["study_id"], row | {"images": 0, "methods": set()})
            one["images"] += 1
            one["methods"].add(row["method"])
        return sorted(found.values(), key=lambda row: row["created_at"], reverse=True)

    return await asyncio.to_thread(read)


async def put_answers(service: Service, rows: Sequence[Mapping[str, Any]]) -> None:
    """Commits answers of a rater; they are durable when this returns."""
    await _put(service, "ratings", rows, RATING_SCHEMA)


async def read_answers(service: Service, study_id: str, rater: str | None = None) -> list[dict[str, Any]]:
    """The newest answer of each rater to each item, of one rater or all."""
    where = f"study_id = {quote(study_id)}" + ("" if rater is None else f" AND rater = {quote(rater)}")
    rows = sorted(await service.rows("ratings", where), key=lambda row: row["answered_at"])
    return list({(row["rater"], row["item"]): row for row in rows}.values())


async def count_answers(service: Service, study_id: str, rater: str) -> int:
    """Rows that a rater has written, replaced answers included."""
    where = f"study_id = {quote(study_id)} AND rater = {quote(rater)}"
    return await asyncio.to_thread(lambda: int(service.workspace.dataset("ratings").count_rows(where)))


def as_answers(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Answers as the statistics take them."""
    return answer_table([{name: row[name] for name in ("rater", "item", "answer")} for row in rows])


async def _put(service: Service, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    await service.writer.put({name: to_bytes(table)})
