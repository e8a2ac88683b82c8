"""Reflective negatives: the real images nearest to what the generator makes of a prompt (RealRAG Eq. 3-4)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.names import plain_name
from engine.recipe import embedding_column
from engine.retriever.database import Database, unit_vectors
from engine.retriever.exact_search import NO_CLASS, top_k
from engine.store import NEGATIVE_SCHEMA, Workspace

_OF_QUERY = ("dataset", "class_index", "class_name", "prompt")


def mine(
    workspace: Workspace,
    encoder: str,
    generated_ids: Sequence[str],
    database: Database | str | Sequence[str],
    k: int = 1,
    mask: bool = True,
    device: str = "cpu",
) -> pa.Table:
    """The `k` database images nearest to each generated image by cosine similarity (`NEGATIVE_SCHEMA`), nearest first.

    Args:
        workspace: holds the generated images and the database, embedded by `encoder`.
        encoder: name of the encoder.
        generated_ids: images whose negatives are wanted.
        database: an SQL condition (`source = 'original' AND split = 'train'`), ids, or a `Database`.
        k: negatives per generated image; fewer if the database has no more.
        mask: skip images of the generated image's own class, also in other data sets that have a class of that name.
        device: torch device of the computation.

    Raises:
        ValueError: an id is not in the table or not embedded; the database is empty, or holds only a query's own class;
            an embedding has no direction.
    """
    if not isinstance(database, Database):
        database = Database(workspace, encoder, database)
    queries = _queries(workspace, encoder, generated_ids)
    names = [plain_name(name) for name in queries["class_name"].to_pylist()]
    codes = {name: number for number, name in enumerate(sorted(set(names) - {""}))}
    found = top_k(
        unit_vectors(queries[embedding_column(encoder)].combine_chunks(), queries["id"]),
        database.blocks(codes),
        k=k,
        query_classes=np.array([codes.get(name, NO_CLASS) for name in names], np.int64) if mask else None,
        device=device,
    )
    lonely = np.flatnonzero(found.rows[:, 0] < 0)
    if len(lonely):
        name = queries["class_name"][int(lonely[0])].as_py()
        raise ValueError(
            f"the database holds images of {name!r} alone, so none is left for it; add other classes, or do not mask"
        )
    query, rank = np.nonzero(found.rows >= 0)
    negative_ids = database.id_of(found.rows[query, rank])
    about = _about(workspace, negative_ids)
    of_query = queries.take(pa.array(query))
    columns = {
        "generated_id": of_query["id"],
        **{name: of_query[name] for name in _OF_QUERY},
        "encoder": [encoder] * len(query),
        "database": [database.name] * len(query),
        "masked": [mask] * len(query),
        "k": [k] * len(query),
        "rank": rank + 1,
        "negative_id": negative_ids,
        "negative_dataset": about["dataset"],
        "negative_class_name": about["class_name"],
        "score": found.scores[query, rank],
    }
    return pa.table({name: columns[name] for name in NEGATIVE_SCHEMA.names}).cast(NEGATIVE_SCHEMA)


def _queries(workspace: Workspace, encoder: str, ids: Sequence[str]) -> pa.Table:
    column = embedding_column(encoder)
    found = workspace.fetch(list(ids), [*_OF_QUERY, column])
    if found.num_rows < len(ids):
        missing = next(one for one in ids if one not in set(found["id"].to_pylist()))
        raise ValueError(f"image {missing} is not in the table; make the generated images before their negatives")
    if found[column].null_count:
        raise ValueError(
            f"{found[column].null_count} generated images are not embedded by {encoder}; run with this encoder first"
        )
    return found


def _about(workspace: Workspace, ids: Sequence[str]) -> pa.Table:
    distinct = list(dict.fromkeys(ids))
    rows = workspace.fetch(distinct, ["dataset", "class_name"])
    places = {one: number for number, one in enumerate(rows["id"].to_pylist())}
    return rows.take([places[one] for one in ids])
