"""Contact sheets of the Textual Inversion study: GenBench's Figures 7, 8, 11 and 12."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.catalog import Dataset
from engine.images import decode_image, encode_png, viewable
from engine.reports import ContactSheet
from engine.store import Workspace

if TYPE_CHECKING:
    from engine.sources.injected import InjectedPlan
    from engine.studies.genbench.injection import InjectionStudy

CLASSES = 10
"""Classes of a sheet, spread evenly over the data set."""

Lines = dict[str, list[str]]
"""Label of a line → ids of its images, empty for a gap."""


def figure_7(study: "InjectionStudy", workspace: Workspace, dataset: Dataset) -> ContactSheet:
    """References and images of a few classes by several prompts: by name, and with each kind of token."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), 3)
    prompts = min(3, max(study.config.shots))
    lines: Lines = {}
    for source in study.config.references:
        references = study.injector.sets[dataset.name, seed, source].references
        lines[f"{source} reference"] = [one for number in few for one in _padded(references[number], prompts)]
    for name in study.variants:
        plan = study.plans[name][dataset.name, seed]
        lines[_label(name)] = [plan[shot * plan.num_classes + number].id for number in few for shot in range(prompts)]
    names = [dataset.class_names[number] for number in few for _ in range(prompts)]
    return sheet(workspace, dataset, "Figure 7: references, and several prompts", lines, names)


def figure_11(study: "InjectionStudy", workspace: Workspace, dataset: Dataset) -> ContactSheet:
    """One image of many classes: by name in the first line, with tokens in the others (Figures 11 and 12)."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), CLASSES)
    lines: Lines = {}
    for name in study.variants:
        plan = study.plans[name][dataset.name, seed]
        lines[_label(name)] = [plan[number].id for number in few]
    test = study.test_plans[dataset.name]
    first: dict[int, str] = {}
    for index in range(len(test)):
        recipe = test[index]
        first.setdefault(recipe.class_index, recipe.id)
    lines["real (test)"] = [first.get(number, "") for number in few]
    names = [dataset.class_names[number] for number in few]
    return sheet(workspace, dataset, "Figures 11 and 12: with and without knowledge", lines, names)


def figure_8(study: "InjectionStudy", workspace: Workspace, dataset: Dataset, low: "InjectedPlan") -> ContactSheet:
    """Originals, the same shrunken, and images through tokens that were learned from both."""
    seed, few = study.config.seeds[0], _spread(len(dataset.class_names), CLASSES)
    references = study.injector.sets[dataset.name, seed, "original"].references
    whole, side = study.plans["original"][dataset.name, seed], study.config.low_resolution
    firsts = [references[number][0] if references[number] else "" for number in few]
    lines: Lines = {
        "original": firsts,
        f"shrunk to {side}x{side}": firsts,
        "token of whole ones": [whole[number].id for number in few],
        "token of shrunken ones": [low[number].id for number in few],
    }
    names = [dataset.class_names[number] for number in few]
    found = sheet(workspace, dataset, "Figure 8: low resolution", lines, names)
    start = len(few)
    found.images[start : 2 * start] = [_shrunk(image, side) for image in found.images[:start]]
    found.ids = []  # a kept report has no shrunken images to show again
    return found


def sheet(workspace: Workspace, dataset: Dataset, title: str, lines: Lines, names: Sequence[str]) -> ContactSheet:
    """Lines of images, each with its line and its class as the caption; a gap stays free."""
    ids = [one for line in lines.values() for one in line]
    table = workspace.fetch(sorted({one for one in ids if one}), ["image"])
    found = dict(zip(table.column("id").to_pylist(), table.column("image").to_pylist(), strict=True))
    return ContactSheet(
        title=f"{dataset.name}: {title}",
        group=dataset.group,
        source=title,
        images=[viewable(found[one]) if one in found else b"" for one in ids],
        captions=[f"{name}: {label}" for label in lines for name in names],
        per_row=len(names),
        ids=ids,
    )


def _label(name: str) -> str:
    return "by name" if name == "none" else f"token, {name}"


def _spread(num: int, wanted: int) -> list[int]:
    return sorted({int(one) for one in np.linspace(0, num - 1, min(num, wanted))})


def _padded(ids: Sequence[str], num: int) -> list[str]:
    return [*ids[:num], *[""] * (num - len(ids[:num]))]


def _shrunk(data: bytes, side: int) -> bytes:
    from engine.models.references import fit

    return encode_png(np.asarray(fit(decode_image(data), side, side))) if data else b""
