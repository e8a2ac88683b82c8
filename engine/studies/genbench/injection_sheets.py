"""Contact sheets of the Textual Inversion study: GenBench's Figures 7, 8, 11 and 12."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.catalog import Dataset
from engine.images import decode_image
from engine.reports import ContactSheet
from engine.store import Workspace

if TYPE_CHECKING:
    from PIL import Image

    from engine.sources.injected import InjectedPlan
    from engine.studies.genbench.injection import InjectionStudy

CLASSES = 10
"""Classes of a sheet, spread evenly over the data set."""
SIDE = 72
"""Pixels per side of a shown image."""
LABEL = 150
"""Pixels of the column of row labels."""

Cells = dict[str, list[bytes | None]]
"""Row label → encoded images, None for a gap."""


def figure_7(study: "InjectionStudy", workspace: Workspace, dataset: Dataset) -> ContactSheet:
    """References and images of one class by several prompts, for a few classes: by name, and with each kind of token."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), 3)
    prompts = min(3, max(study.config.shots))
    rows: Cells = {}
    for source in study.config.references:
        references = study.injector.sets[dataset.name, seed, source].references
        rows[f"{source} references"] = _images(
            workspace, [one for number in few for one in _padded(references[number], prompts)]
        )
    for name in study.variants:
        plan = study.plans[name][dataset.name, seed]
        ids = [plan[shot * plan.num_classes + number].id for number in few for shot in range(prompts)]
        rows[_label(name)] = _images(workspace, ids)
    titles = [dataset.class_names[number] if not shot else "" for number in few for shot in range(prompts)]
    return _sheet(dataset, "Figure 7: references, and several prompts", rows, titles)


def figure_11(study: "InjectionStudy", workspace: Workspace, dataset: Dataset) -> ContactSheet:
    """One image of many classes: by name in the first row, with tokens in the others (Figures 11 and 12)."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), CLASSES)
    rows: Cells = {}
    for name in study.variants:
        plan = study.plans[name][dataset.name, seed]
        rows[_label(name)] = _images(workspace, [plan[number].id for number in few])
    test = study.test_plans[dataset.name]
    first: dict[int, str] = {}
    for index in range(len(test)):
        recipe = test[index]
        first.setdefault(recipe.class_index, recipe.id)
    rows["real (test)"] = _images(workspace, [first.get(number, "") for number in few])
    return _sheet(dataset, "Figures 11 and 12: with and without knowledge", rows, [dataset.class_names[n] for n in few])


def figure_8(study: "InjectionStudy", workspace: Workspace, dataset: Dataset, low: "InjectedPlan") -> ContactSheet:
    """Images through tokens that were learned from whole and from shrunken originals, and such originals."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), CLASSES)
    references = study.injector.sets[dataset.name, seed, "original"].references
    shown = _images(workspace, [references[number][0] if references[number] else "" for number in few])
    side = study.config.low_resolution
    whole = study.plans["original"][dataset.name, seed]
    rows: Cells = {
        "original": shown,
        f"shrunk to {side}x{side}": [_shrunk(each, side) for each in shown],
        "token of whole ones": _images(workspace, [whole[number].id for number in few]),
        "token of shrunken": _images(workspace, [low[number].id for number in few]),
    }
    return _sheet(dataset, "Figure 8: low resolution", rows, [dataset.class_names[number] for number in few])


def _label(name: str) -> str:
    return "by name" if name == "none" else f"token, {name}"


def _spread(num: int, wanted: int) -> list[int]:
    return sorted({int(one) for one in np.linspace(0, num - 1, min(num, wanted))})


def _padded(ids: Sequence[str], num: int) -> list[str]:
    return [*ids[:num], *[""] * (num - len(ids[:num]))]


def _images(workspace: Workspace, ids: Sequence[str]) -> list[bytes | None]:
    """Encoded images in the order of `ids`; None where there is none."""
    table = workspace.fetch(sorted({one for one in ids if one}), ["image"])
    found = dict(zip(table.column("id").to_pylist(), table.column("image").to_pylist(), strict=True))
    return [found.get(one) for one in ids]


def _shrunk(data: bytes | None, side: int) -> bytes | None:
    from engine.images import encode_png
    from engine.models.references import fit

    return None if data is None else encode_png(np.asarray(fit(decode_image(data), side, side)))


def _sheet(dataset: Dataset, title: str, rows: Cells, titles: Sequence[str]) -> ContactSheet:
    file = io.BytesIO()
    grid(rows, titles).save(file, "PNG", optimize=True)
    return ContactSheet(
        title=f"{dataset.name}: {title}",
        group=dataset.group,
        source=title,
        images=[file.getvalue()],
        captions=[", ".join(rows)],
        per_row=1,
    )


def grid(rows: Cells, titles: Sequence[str]) -> "Image.Image":
    """Rows of images with their labels on the left and the titles of the columns on top; a gap stays grey."""
    from PIL import Image, ImageDraw

    top, gap = 40, 4
    width = LABEL + len(titles) * (SIDE + gap)
    page = Image.new("RGB", (width, top + len(rows) * (SIDE + gap)), "white")
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        for line, part in enumerate(_lines(title)):
            pen.text((LABEL + column * (SIDE + gap), 4 + 12 * line), part, fill="black")
    for row, (label, images) in enumerate(rows.items()):
        y = top + row * (SIDE + gap)
        pen.text((4, y + SIDE // 2 - 6), label, fill="black")
        for column, data in enumerate(images):
            place = (LABEL + column * (SIDE + gap), y)
            page.paste(_shown(data), place)
    return page


def _lines(title: str, width: int = 12) -> list[str]:
    """Up to three lines of about the width of an image."""
    lines: list[str] = []
    for word in title.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += f" {word}"
        else:
            lines.append(word[:width])
    return lines[:3]


def _shown(data: bytes | None) -> Any:
    from PIL import Image

    if data is None:
        return Image.new("RGB", (SIDE, SIDE), "#dddddd")
    image = Image.fromarray(decode_image(data))
    # enlarged without smoothing, so that small images look as they are
    method = Image.Resampling.NEAREST if image.width < SIDE else Image.Resampling.LANCZOS
    return image.resize((SIDE, SIDE), method)
