"""Requirements on the location of a workspace, checked with one-sentence errors. Nothing here writes."""

import os
from pathlib import Path

import pyarrow as pa

from engine.recipe import IMAGE_SCHEMA, SCHEMA_VERSION
from engine.store.schemas import VERSION_KEY

CONDITION_HINT = "write one over the table's columns, as source = 'generative' AND class_name = 'apple'"
"""What to do about a condition that the table does not understand."""


def normal_uri(uri: str) -> str:
    """An absolute path for a local location, a URI without a trailing slash for any other."""
    uri = uri.removeprefix("file://")
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def check_folder(path: Path) -> None:
    """Raises ValueError if `path` is a file, or if it, or the folder that would hold it, is not writable."""
    nearest = next(place for place in [path, *path.parents] if place.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file; give the path of a folder as workspace")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{nearest} is not writable; change its permissions or give another place as workspace")


def check_schema(uri: str, schema: pa.Schema) -> None:
    """Raises ValueError if the table `images` with `schema` was not made by this version of the project."""
    found = (schema.metadata or {}).get(VERSION_KEY, b"").decode()
    if found and found != str(SCHEMA_VERSION):
        is_newer = found.isdigit() and int(found) > SCHEMA_VERSION
        fix = "install a newer imagefoundry (CHANGELOG.md names the schema of each), or use another workspace"
        if not is_newer:
            fix = "use another workspace, or the release of imagefoundry that made this one"
        raise ValueError(f"workspace {uri} has schema version {found}, and this release reads {SCHEMA_VERSION}; {fix}")
    for field in IMAGE_SCHEMA:
        if field.nullable and field.name not in schema.names:
            continue  # an older release made the table; the next run that writes adds the column
        if field.name not in schema.names or schema.field(field.name).type != field.type:
            fix = "it is not a workspace, or a damaged one; give another place"
            raise ValueError(f"the table images in {uri} has no column {field.name!r} of type {field.type}; {fix}")
    if not found:
        raise ValueError(f"the table images in {uri} does not say its schema version; give another place as workspace")


def short_reason(error: Exception) -> str:
    """First line of an error's message, 300 characters at most."""
    return str(error).splitlines()[0][:300]
