"""The columns of the tables of a workspace, and the cast of any Arrow table to one of them."""

import pyarrow as pa

from engine.recipe import ERROR_SCHEMA, IMAGE_SCHEMA

VERSION_KEY = b"imagefoundry.schema_version"


def _required(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


RUN_SCHEMA = _required(
    run_id=pa.string(),
    started_at=pa.timestamp("us", tz="UTC"),
    wall_seconds=pa.float64(),
    nodes=pa.float64(),
    instance=pa.string(),
    usd_per_hour=pa.float64(),
    busy_seconds=pa.float64(),
    usd_busy=pa.float64(),
    usd_billed=pa.float64(),
    images=pa.int64(),
    errors=pa.int64(),
    status=pa.string(),
    config=pa.string(),
).append(pa.field("planned", pa.int64()))
"""One row per run, renewed while it goes on.

`busy_seconds`, `usd_busy`: busy time of the devices, and its price. `nodes`: size of the cluster in
units of the priced instance. `usd_billed`: price of `nodes` x `wall_seconds`.
`status`: `running` (or killed while it was), `finished`, `interrupted` or `failed`. `config`: the run's configuration as JSON.
`planned`: images that the run has found missing or not looked at so far; null for a server and for releases without the column.
"""

LEDGER_SCHEMA = _required(
    run_id=pa.string(),
    stage=pa.string(),
    source=pa.string(),
    dataset=pa.string(),
    strategy=pa.string(),
    generator=pa.string(),
    rows=pa.int64(),
    busy_seconds=pa.float64(),
    usd_compute=pa.float64(),
    usd_labels=pa.float64(),
).append(pa.field("fetched_bytes", pa.int64()))
"""Work of each stage of a run and its price in US dollars, per kind of image.

`fetched_bytes`: bytes of the retrieved images that a stage made or learned from; null for releases without the column.
"""

NEGATIVE_SCHEMA = _required(
    generated_id=pa.string(),
    dataset=pa.string(),
    class_index=pa.int64(),
    class_name=pa.string(),
    prompt=pa.string(),
    encoder=pa.string(),
    database=pa.string(),
    masked=pa.bool_(),
    k=pa.int32(),
    rank=pa.int32(),
    negative_id=pa.string(),
    negative_dataset=pa.string(),
    negative_class_name=pa.string(),
    score=pa.float32(),
)
"""One row per generated image and rank (1 is nearest) of its nearest database images (RealRAG Eq. 4).

`database`: hash of the searched ids. `masked`: whether images of the own class were skipped. `k`: number requested.
`score`: cosine similarity of the two embeddings.
"""

HEAD_SCHEMA = _required(
    name=pa.string(),
    trained_from=pa.string(),
    label=pa.string(),
    encoder=pa.string(),
    epoch=pa.int32(),
    kept=pa.bool_(),
    spec=pa.string(),
    curves=pa.string(),
    weights=pa.large_binary(),
    run_id=pa.string(),
    created_at=pa.timestamp("us", tz="UTC"),
)
"""One row per trained head of a retriever.

`name`: name of its embeddings. `trained_from`: hash of its data and its training settings. `kept`: whether it is the
head of an epoch kept in addition to the chosen one. `spec`, `curves`: JSON. `weights`: safetensors.
"""

TOKEN_SCHEMA = _required(
    fitted_from=pa.string(),
    token=pa.string(),
    dataset=pa.string(),
    class_index=pa.int64(),
    class_name=pa.string(),
    generator=pa.string(),
    revision=pa.string(),
    source=pa.string(),
    seed=pa.int64(),
    reference_ids=pa.list_(pa.string()),
    reference_bytes=pa.int64(),
    settings=pa.string(),
    losses=pa.list_(pa.float64()),
    weights=pa.large_binary(),
    device_seconds=pa.float64(),
    usd_compute=pa.float64(),
    run_id=pa.string(),
    created_at=pa.timestamp("us", tz="UTC"),
)
"""One row per learned token (Textual Inversion).

`fitted_from`: hash of everything that the token was fitted on, which stands in the revision of recipes. `token`: as prompts hold it.
`revision`: of the generator's weights. `source`: of the reference images. `reference_bytes`: bytes of these images as they are stored.
`settings`: JSON. `losses`: mean of each tenth of the steps. `weights`: safetensors that diffusers reads. `device_seconds`: the category's
part of the busy seconds of its batch; `usd_compute`: their price.
"""

KEY_SCHEMA = _required(
    key_id=pa.string(),
    name=pa.string(),
    hash=pa.string(),
    created_at=pa.timestamp("us", tz="UTC"),
    rate_per_minute=pa.int32(),
    budget_usd=pa.float64(),
    revoked=pa.bool_(),
)
"""One row per API key of a server.

`hash`: SHA-256 of the key, 64 hexadecimal digits; the key itself is not kept. `rate_per_minute`: images per minute, 0 for no
limit. `budget_usd`: US dollars in all, 0 for no limit.
"""

REQUEST_SCHEMA = _required(
    request_id=pa.string(),
    key_id=pa.string(),
    image_id=pa.string(),
    endpoint=pa.string(),
    requested_at=pa.timestamp("us", tz="UTC"),
    is_new=pa.bool_(),
    wait_seconds=pa.float64(),
    device_seconds=pa.float64(),
    usd=pa.float64(),
    end_user=pa.string(),
)
"""One row per image that a server answered with.

`is_new`: whether it was made for this request; otherwise the table had it, for 0 dollars. `wait_seconds`: time in the queue.
`end_user`: the client's own id of its user (`safety_identifier`), or empty.
"""

STUDY_SCHEMA = _required(
    study_id=pa.string(),
    task=pa.string(),
    created_at=pa.timestamp("us", tz="UTC"),
    key_id=pa.string(),
    item=pa.string(),
    set=pa.int64(),
    prompt=pa.string(),
    image_id=pa.string(),
    method=pa.string(),
    class_name=pa.string(),
)
"""One row per item of a human study: what raters see (`item`, `set`, `prompt`, `image_id`) and what they must not (`method`)."""

RATING_SCHEMA = _required(
    study_id=pa.string(),
    rater=pa.string(),
    item=pa.string(),
    answer=pa.int64(),
    seconds=pa.float64(),
    answered_at=pa.timestamp("us", tz="UTC"),
)
"""One row per answer of a rater; the newest answer to an item counts. `seconds`: time that the rater took."""

REPORT_SCHEMA = _required(
    report_id=pa.string(),
    study=pa.string(),
    title=pa.string(),
    config=pa.string(),
    created_at=pa.timestamp("us", tz="UTC"),
    version=pa.int32(),
    content=pa.large_binary(),
)
"""One row per result of a study over this workspace: findings, tables, figures and the ids of its contact sheets.

`report_id`: hash of study, configuration and content, so an equal result is kept once. `config`: JSON. `version`: of the layout of
`content`, which is compressed JSON (`engine.studies.kept_reports`).
"""

CAPTION_SCHEMA = pa.schema(
    [
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("part", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("similarity", pa.float32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
"""One row per distinct caption of a web corpus and the first picture that has it, without the embedding columns.

`part`: part of a file that the row came from (`caption_parts`). `row`: its number in that file. `key`: hash that
near-duplicate captions share. `similarity`: of picture and caption, as the corpus has it. `width`, `height`: pixels, as it has them.
"""

CAPTION_PART_SCHEMA = _required(
    corpus=pa.string(),
    encoder=pa.string(),
    part=pa.int64(),
    file=pa.string(),
    start=pa.int64(),
    rows=pa.int64(),
    used=pa.int64(),
    left=pa.string(),
    settings=pa.string(),
    run_id=pa.string(),
)
"""One row per part of a caption table that is done. `used`: its rows in `captions`. `left`: JSON, reason → number of other rows."""

TABLES = {
    "captions": CAPTION_SCHEMA,
    "caption_parts": CAPTION_PART_SCHEMA,
    "errors": ERROR_SCHEMA,
    "keys": KEY_SCHEMA,
    "requests": REQUEST_SCHEMA,
    "studies": STUDY_SCHEMA,
    "ratings": RATING_SCHEMA,
    "runs": RUN_SCHEMA,
    "ledger": LEDGER_SCHEMA,
    "negatives": NEGATIVE_SCHEMA,
    "heads": HEAD_SCHEMA,
    "reports": REPORT_SCHEMA,
    "tokens": TOKEN_SCHEMA,
    "images": IMAGE_SCHEMA,
}
"""Name → schema. `images` is made last, so a folder that has it is a workspace; tables new in this release are added."""


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows of `table` with exactly the columns of `schema`; nullable columns that it lacks are null.

    Raises ValueError if `table` has an unknown column, lacks a required column or has a null in it, or if a value does
    not fit the column's type.
    """
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        hint = "; call Workspace.ensure_encoder first" if unknown[0].startswith("embedding_") else ""
        raise ValueError(f"the table has no column {unknown[0]!r}{hint}")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            column = pa.nulls(table.num_rows, field.type)
        else:
            try:
                column = table.column(field.name).cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise ValueError(f"column {field.name!r} does not fit {field.type}: {error}") from error
        if column.null_count and not field.nullable:
            raise ValueError(f"column {field.name!r} is required, and {column.null_count} of its values are missing")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
