"""`imagefoundry show`: images of a workspace as files and a contact sheet, with their recipes and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from engine.recipe import IMAGE_SCHEMA, Recipe

if TYPE_CHECKING:
    from engine.store import Workspace

COSTS = ("device_seconds", "usd_compute", "usd_labels", "run_id", "batch_size", "dtype", "device", "image_format")
"""Columns that are printed below the recipe."""


@dataclass(frozen=True)
class ShowConfig:
    """The images to show: some ids, or a random sample."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")] = ()
    """Ids of the images (32 hexadecimal digits each)."""
    sample: int = 0
    """Show this many random images instead of given ids."""
    where: str | None = None
    """SQL condition on the sample, as "source = 'generative' AND class_name = 'apple'"."""
    seed: int = 0
    """Seed of the sample."""
    output: Path = Path("show")
    """Folder for the image files and index.html."""


@dataclass
class Shown:
    """Images that were written."""

    rows: list[dict[str, Any]]
    """Row of each image without its bytes, and `file`, where the bytes were written."""
    page: Path
    """The contact sheet."""

    def print(self) -> None:
        """Prints each recipe (without the fields at their default), its costs and its file."""
        for row in self.rows:
            print(f"{row['id']}  {row['file']}  {row['image_width']}x{row['image_height']}")
            for name, value in (*_recipe(row).items(), *_costs(row)):
                print(f"  {name:20} {f'{value:.4g}' if isinstance(value, float) else value}")


def show(config: ShowConfig) -> Shown:
    """Writes the images and a contact sheet into `output`.

    Raises ValueError if neither ids nor a sample are asked for (or both), if an id is not in the workspace, and if `where` is
    not a condition on the columns of `images`.
    """
    from engine.reports import ContactSheet, Report
    from engine.store import Workspace

    workspace = Workspace.open(config.workspace, create=False)
    ids = chosen_ids(workspace, config.ids, config.sample, config.where, config.seed)
    present = workspace.image_schema().names  # a table of an older release may lack columns
    rows = workspace.fetch(ids, [name for name in IMAGE_SCHEMA.names if name in present]).to_pylist()
    config.output.mkdir(parents=True, exist_ok=True)
    sheets: dict[tuple[str, str], ContactSheet] = {}
    for row in rows:
        data = row.pop("image")
        row["file"] = config.output / f"{row['id']}.{_suffix(data)}"
        row["file"].write_bytes(data)
        key = row["dataset"], row["source"]
        sheet = sheets.setdefault(key, ContactSheet(title=key[0], group=row["split"], source=key[1]))
        sheet.images.append(data)
        sheet.captions.append(f"{row['class_name']} · {row['prompt'] or row['key']}")
    plain = ("id", "class_name", "prompt", "device_seconds", "usd_compute", "usd_labels")
    table = [{name: row[name] for name in plain} for row in rows]
    report = Report(title=f"Images of {workspace.uri}", tables={"images": table}, sheets=list(sheets.values()))
    return Shown(rows, report.write(config.output))


def chosen_ids(
    workspace: "Workspace", ids: Sequence[str], sample: int = 0, where: str | None = None, seed: int = 0
) -> list[str]:
    """The ids that a user gave, each once, or a random sample of `sample` images for which `where` holds.

    Raises ValueError if neither is asked for, or both; if an id is not in the workspace; if `where` is no condition.
    """
    if bool(ids) == bool(sample) or sample < 0:
        raise ValueError("give either the ids of images or --sample N with N of 1 or more")
    if where and not sample:
        raise ValueError("--where filters a sample; give --sample N with it")
    if not ids:
        return _sample(workspace, sample, where, seed)
    there = set(workspace.fetch(list(dict.fromkeys(ids)), ["id"])["id"].to_pylist())
    if missing := set(ids) - there:
        raise ValueError(_why_missing(workspace, min(missing)))
    return list(dict.fromkeys(ids))


def _sample(workspace: "Workspace", num: int, where: str | None, seed: int) -> list[str]:
    import numpy as np
    import pyarrow.compute as pc

    from engine.store.conditions import ids_where

    ids = ids_where(workspace, where or "")
    if not len(ids):
        raise ValueError(f"workspace {workspace.uri} has no images{' for which --where holds' if where else ''}")
    ids = ids.take(pc.sort_indices(ids))  # the same sample whatever the order in the table
    chosen = np.random.default_rng(seed).choice(len(ids), min(num, len(ids)), replace=False)
    return [str(one) for one in ids.take(np.sort(chosen)).to_pylist()]


def _why_missing(workspace: "Workspace", missing: str) -> str:
    failed = [row for row in workspace.errors().select(["id", "stage", "reason"]).to_pylist() if row["id"] == missing]
    if failed:
        return f"image {missing} could not be made: {failed[-1]['reason']} (stage {failed[-1]['stage']})"
    return f"workspace {workspace.uri} has no image {missing}; `imagefoundry show {workspace.uri} --sample 5` shows some that it has"


def _recipe(row: dict[str, Any]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(Recipe)}
    return {name: value for name, value in Recipe.from_dict(row).as_dict().items() if value != defaults[name]}


def _costs(row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, row[name]) for name in COSTS if row.get(name) is not None]


def _suffix(image: bytes) -> str:
    if image[:4] == b"RIFF":
        return "webp"
    return "png" if image.startswith(b"\x89PNG") else "jpg" if image.startswith(b"\xff\xd8") else "img"
