#!/usr/bin/env python3
"""Draws docs/images/references.png from a workspace of `make realrag`: generated alone, the reference, generated with it.

python docs/gallery.py workspace/realrag
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import engine
from engine.images import decode_image

OUTPUT = Path(__file__).parent / "images" / "references.png"
DATASETS = {"mini-common": "common", "mini-fine": "fine-grained", "mini-rare": "rare", "mini-novel": "novel"}
CLASSES, SIDE, GAP, LABEL = 6, 96, 6, 110
ALONE = "split = 'train' AND strategy = 'simple_template'"
GUIDED = "split = 'train' AND strategy = 'simple_template+retrieval_augmented'"


def main(uri: str) -> None:
    """Writes the sheet: per data set, three rows of the same classes."""
    workspace = engine.Workspace.open(uri, create=False)
    random = np.random.default_rng(0)
    rows: list[tuple[str, list[bytes]]] = []
    for dataset, group in DATASETS.items():
        where = f"{GUIDED} AND dataset = '{dataset}'"
        found = rows_of(workspace, where)
        names = sorted({row["class_name"] for row in found})
        chosen = [names[place] for place in np.sort(random.permutation(len(names))[:CLASSES])]
        guided = [next(row for row in found if row["class_name"] == name) for name in chosen]
        plain = rows_of(workspace, f"{ALONE} AND dataset = '{dataset}'")
        alone = [next(row for row in plain if row["class_name"] == name) for name in chosen]
        columns = {
            f"{group}\nalone": [row["id"] for row in alone],
            "reference": [row["reference_id"] for row in guided],
            "with it": [row["id"] for row in guided],
        }
        for title, ids in columns.items():
            images = {row["id"]: row["image"] for row in workspace.fetch(ids, ["id", "image"]).to_pylist()}
            rows.append((title, [images[one] for one in ids]))
    sheet = Image.new(
        "RGB", (LABEL + CLASSES * (SIDE + GAP), len(rows) * (SIDE + GAP) + (len(rows) // 3) * GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for line, (title, images) in enumerate(rows):
        top = line * (SIDE + GAP) + (line // 3) * GAP
        draw.text((6, top + SIDE // 3), title, fill="black", font_size=16)
        for place, data in enumerate(images):
            picture = Image.fromarray(decode_image(data)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (LABEL + place * (SIDE + GAP), top))
    sheet.save(OUTPUT, optimize=True)


def rows_of(workspace: engine.Workspace, where: str) -> list[dict]:
    """Ids, classes and references of the images for which a condition holds, by id."""
    batches = workspace.scan(["id", "class_name", "reference_id"], where)
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: row["id"])


if __name__ == "__main__":
    main(sys.argv[1])
