"""Rows of small tables, made from plan indices."""

import numpy as np
import pyarrow as pa

from engine.images import content_hash, encode_png
from engine.recipe import ERROR_SCHEMA, IMAGE_SCHEMA, Recipe, embedding_column
from engine.store import Committer, write_fragments


def _recipe(index: int) -> Recipe:
    dataset = ("cars", "birds")[index % 2]
    return Recipe(
        source="generative", dataset=dataset, class_index=index % 5, class_name=f"class {index % 5}", seed=index
    )


def recipe_ids(indices):
    return [_recipe(index).id for index in indices]


def _columns(indices, schema):
    fillers = {pa.string(): "x", pa.int32(): 1, pa.int64(): 1, pa.float64(): 0.5, pa.large_binary(): b"image"}
    rows = []
    for index in indices:
        recipe = _recipe(index)
        row = {field.name: fillers[field.type] for field in schema}
        row |= recipe.as_dict() | {"id": recipe.id, "run_id": "run-1"}
        if "image" in row:
            row["image"] = b"image %d" % index
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


def image_rows(indices, **embeddings):
    """Rows of `images` for plan indices; `embeddings`: encoder → [N, D] float32."""
    table = _columns(indices, IMAGE_SCHEMA)
    for encoder, vectors in embeddings.items():
        flat = pa.array(np.asarray(vectors, np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = table.append_column(embedding_column(encoder), column)
    return table


def error_rows(indices):
    return _columns(indices, ERROR_SCHEMA)


def add(workspace, table, name="images"):
    """Writes and commits a table at once."""
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, name, table))


def sound_rows(indices, dimension=4):
    """Rows of `images` as a run writes them: pictures that decode to their hash, and unit embeddings by encoder `a`."""
    random = np.random.default_rng(list(indices))
    vectors = random.normal(size=(len(indices), dimension)).astype(np.float32)
    table = image_rows(indices, a=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    pictures = random.integers(0, 256, (len(indices), 8, 8, 3), np.uint8)
    for name, values in (
        ("image", pa.array([encode_png(one) for one in pictures], pa.large_binary())),
        ("content_hash", pa.array([content_hash(one) for one in pictures])),
    ):
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    return table
