"""The images of a study committed without Ray or a model, for tests of reports."""

import numpy as np
import pyarrow as pa

from engine.recipe import IMAGE_SCHEMA, embedding_column
from engine.store import Committer, Workspace, write_fragments
from engine.store.vectors import from_matrix
from engine.studies.study import Study
from engine.testing.data import class_image, encode

FILLERS = {"image_height": 32, "image_width": 32, "batch_size": 1, "run_id": "run-1", "dtype": "uint8", "device": "cpu"}


def commit_images(study: Study, noise: dict[str, float]) -> Workspace:
    """Every planned image, its embedding that of its class and noise by source; test images have little."""
    workspace = Workspace.open(study.config.workspace)
    dimension = study.encoder.dimension
    workspace.ensure_encoder(study.encoder.name, dimension)
    recipes = {plan[index].id: plan[index] for plan in study.every_plan() for index in range(len(plan))}
    random = np.random.default_rng(0)
    rows, vectors = [], []
    for name, recipe in recipes.items():
        image = encode(class_image(recipe.class_index, recipe.seed % 100))
        money = {"device_seconds": 1.0, "usd_compute": 0.5, "usd_labels": 0.0}
        rows.append(FILLERS | money | recipe.as_dict() | {"id": name, "image": image, "content_hash": "0" * 32})
        spread = noise.get(recipe.source, 0.1) if recipe.split == "train" else 0.1
        vectors.append(np.eye(dimension)[recipe.class_index] + spread * random.normal(size=dimension))
    matrix = np.array(vectors, np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    table = pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)
    table = table.append_column(embedding_column(study.encoder.name), from_matrix(matrix))
    with Committer(workspace) as committer:
        committer.add(write_fragments(workspace.uri, "images", table))
    return workspace
