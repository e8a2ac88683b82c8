"""Contact sheets that put images of one class in one line: a real one, and those of each source, strategy or method beside it."""

from collections.abc import Mapping

import numpy as np

from engine.catalog import Dataset
from engine.images import viewable
from engine.reports import ContactSheet
from engine.reports.headings import source_name, strategy_words
from engine.sources import shot_ids
from engine.sources.kinds import ShotPlan, find_source
from engine.store import Workspace
from engine.studies.image_set import Images

COMPARED_CLASSES = 6
"""Lines of a sheet, classes spread evenly over the data set."""


def comparison_sheet(
    workspace: Workspace, dataset: Dataset, test: Images, plans: Mapping[str, ShotPlan], title: str = ""
) -> ContactSheet:
    """A line per class: a test image, then the first image of each plan, after its reference where it has one."""
    num = len(dataset.class_names)
    classes = sorted({int(number) for number in np.linspace(0, num - 1, min(num, COMPARED_CLASSES))})
    firsts = {name: {number: one for one, number in shot_ids(plan, 0, 1)} for name, plan in plans.items()}
    wanted = [first[number] for first in firsts.values() for number in classes if number in first]
    table = workspace.fetch(list(dict.fromkeys(wanted)), ["reference_id"])
    reference_of = dict(zip(table.column("id").to_pylist(), table.column("reference_id").to_pylist(), strict=True))
    firsts = {name: first for name, first in firsts.items() if any(one in reference_of for one in first.values())}
    referring = [
        name for name, first in firsts.items() if any(reference_of.get(first.get(number)) for number in classes)
    ]
    cells: list[tuple[str, str]] = []
    for number in classes:
        real = next((row for row, label in enumerate(test.classes) if label == number), None)
        label = dataset.class_names[number]
        cells.append(("" if real is None else test.ids[real], f"{label}: real test image"))
        for name, first in firsts.items():
            shown = source_name(name) if find_source(name) else strategy_words(name)
            if name in referring:
                cells.append((reference_of.get(first.get(number)) or "", f"{label}: reference of {shown}"))
            cells.append((first.get(number, ""), f"{label}: {shown}"))
    found = workspace.fetch([one for one in dict.fromkeys(name for name, _ in cells) if one], ["image"])
    images = dict(zip(found.column("id").to_pylist(), found.column("image").to_pylist(), strict=True))
    return ContactSheet(
        title=title or f"{dataset.name}: real and made images, class by class",
        group=dataset.group,
        source="",
        images=[viewable(images[name]) if name in images else b"" for name, _ in cells],
        captions=[text if name in images else "" for name, text in cells],
        per_row=len(cells) // len(classes),
        ids=[name if name in images else "" for name, _ in cells],
    )
