"""The composition study: RealRAG's phases with prompts in contexts, for two reference branches, and scores of object and context."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from engine.catalog import Dataset
from engine.images import decode_image, viewable
from engine.models.spec import GeneratorSpec
from engine.reports import ContactSheet, Report
from engine.reports.headings import method_name
from engine.store import Workspace
from engine.studies.base import run_study
from engine.studies.composition.config import SHIPPED, CompositionConfig
from engine.studies.composition.judge import PLAIN, CompositionJudge, Shown, context_of, phrases
from engine.studies.composition.presentation import OUTCOMES, figures, findings
from engine.studies.image_set import stored_images
from engine.studies.realrag.judge import ImageSet, Row, load_images, shown_classes
from engine.studies.realrag.retrievers import Key
from engine.studies.realrag.study import RealRag
from engine.studies.realrag.tables import summary
from engine.studies.scoring import Bills, cost_tables, error_rows
from engine.world.captions import with_article

SHOWN_CLASSES = 3
"""Lines of a contact sheet."""
PAIRS_AT_ONCE = 64
"""Images whose pixels are compared with those of their references at a time."""
BY = ("branch", "method", "dataset", "group", "prompt")


def run_composition(config: CompositionConfig) -> Report:
    """Generates every class in every context with and without references, judges object and context; finished work is skipped.

    Raises:
        ValueError: the input is invalid or a model is missing; one sentence says how to fix it.
    """
    config.check()
    return run_study(Composition(config))


class Composition(RealRag):
    """RealRAG with prompts in contexts; each branch is a generator."""

    name = "composition"

    def __init__(self, config: CompositionConfig):
        super().__init__(config.study)
        self.wanted = config

    @cached_property
    def generators(self) -> dict[str, GeneratorSpec]:
        """One denoiser with two branches."""
        return dict(self.wanted.generators)

    @property
    def generator_names(self) -> Sequence[str]:
        """Their names."""
        return list(self.generators)

    @cached_property
    def datasets(self) -> list[Dataset]:
        """The data sets; each class has a prompt without a context and one for each."""
        return [
            replace(
                dataset,
                prompts=tuple(
                    tuple(f"a photo of {with_article(name)} {phrase}".strip() for phrase in phrases())
                    for name in dataset.class_names
                ),
            )
            for dataset in super().datasets
        ]

    def build_report(self, workspace: Workspace) -> Report:
        """Object, context and both, by branch, method, data set and prompt; what the judge makes of real images; sheets."""
        names = [dataset.name for dataset in self.datasets]
        judge = CompositionJudge.of(self.judge, names, self.wanted.judge_images)
        rows: list[Row] = []
        images: dict[Key, dict[str, ImageSet]] = {}
        for key, plans in self.plans.items():
            images[key] = {name: load_images(workspace, plan, [self.judge.name]) for name, plan in plans.items()}
            if key[:2] == (SHIPPED, "none"):
                continue  # the other branch has the same images without a reference
            for dataset in self.datasets:
                rows += self._rows(workspace, judge, key, dataset, images[key][dataset.name])
        sums = summary(rows, BY)
        whole = [row for row in sums if row["prompt"] in ("no context", "all contexts")]
        return Report(
            title="Composition: the object of the reference in the context of the prompt",
            findings=findings(rows),
            figures=figures(whole),
            tables={
                "composition": whole,
                "composition_by_context": [row for row in sums if row not in whole],
                "composition_judge": [self._on_real(judge, dataset) for dataset in self.datasets],
                "retrieval": summary(self.retrieval_table(workspace), ("generator", "method", "dataset", "group")),
                **cost_tables(workspace, Bills(workspace)),
                "files": self.files(),
                "errors": error_rows(workspace, self.every_plan()),
            },
            sheets=[self._sheet(workspace, dataset, images) for dataset in self.datasets],
            notes=[
                f"Object and context are judged by linear probes on {self.judge.name}'s features of real images in every context; no generator, branch or database has them.",
                "± is over seeds, which share one world, one generator and two branches.",
                "The correlation with the reference is that of the pixels of an image and of its reference (Pearson, mean over images); 1 is a copy.",
            ],
        )

    def _rows(
        self, workspace: Workspace, judge: CompositionJudge, key: Key, dataset: Dataset, images: ImageSet
    ) -> list[Row]:
        """A row per context, and one for all of them together."""
        places = np.array([phrases().index(context_of(prompt)) for prompt in images.prompts])
        right, placed = judge.score(dataset.name, images.features[self.judge.name], images.labels, places)
        classes = shown_classes(workspace, images.reference_ids)
        referred = np.array([bool(name) for name in images.reference_ids])
        hits = np.array(
            [classes.get(name) == own for name, own in zip(images.reference_ids, images.classes, strict=True)]
        )
        likeness = _likeness(workspace, images)
        rows = []
        parts = {phrase or "no context": places == number for number, phrase in enumerate(phrases())}
        parts["all contexts"] = places != phrases().index(PLAIN)
        for prompt, chosen in parts.items():
            pairs = chosen & referred
            row: Row = {"branch": key[0] if key[1] != "none" else "-", "method": key[1], "seed": key[2]}
            rows.append(
                row
                | {"dataset": dataset.name, "group": dataset.group, "prompt": prompt, "images": int(chosen.sum())}
                | {
                    name: float(values[chosen].mean()) if chosen.any() else None
                    for name, values in zip(OUTCOMES, (right, placed, right & placed), strict=True)
                }
                | {
                    "right_references": float(hits[pairs].mean()) if pairs.any() else None,
                    "reference_correlation": float(likeness[pairs].mean()) if pairs.any() else None,
                }
            )
        return rows

    def _on_real(self, judge: CompositionJudge, dataset: Dataset) -> Row:
        """The judge on real images that its probes have not seen."""
        shown = Shown.rendered(self.judge, dataset.name, "test", self.wanted.judge_images)
        right, placed = judge.score(dataset.name, shown.features, shown.labels, shown.places)
        row: Row = {"dataset": dataset.name, "group": dataset.group, "images": len(right)}
        for prompt, chosen in (("no context", shown.places == 0), ("all contexts", shown.places != 0)):
            for name, values in zip(OUTCOMES, (right, placed, right & placed), strict=True):
                row[f"{name} {prompt}"] = float(values[chosen].mean())
        return row

    def _sheet(
        self, workspace: Workspace, dataset: Dataset, images: Mapping[Key, Mapping[str, ImageSet]]
    ) -> ContactSheet:
        """Lines of some classes: without a reference, and with each branch, in every context, after the reference."""
        num = len(dataset.class_names)
        cells: list[tuple[str, str]] = []
        keys = [
            key
            for key in images
            if key[2] == self.config.seeds[0]
            and key[1] in ("none", self.config.methods[-1])
            and key[:2] != (SHIPPED, "none")
        ]
        for number in sorted({int(one) for one in np.linspace(0, num - 1, min(num, SHOWN_CLASSES))}):
            name = dataset.class_names[number]
            for key in keys:
                of = images[key][dataset.name]
                rows = {context_of(of.prompts[row]): row for row in np.flatnonzero(of.labels == number)}
                who = method_name("none") if key[1] == "none" else key[0]
                first = next(iter(rows.values()), None)
                cells.append(("" if first is None else of.reference_ids[first], f"{name}: reference"))
                cells += [
                    (of.ids[rows[phrase]] if phrase in rows else "", f"{name} {phrase}".strip() + f": {who}")
                    for phrase in phrases()
                ]
        found = workspace.fetch([one for one in dict.fromkeys(name for name, _ in cells) if one], ["image"])
        known = dict(zip(found.column("id").to_pylist(), found.column("image").to_pylist(), strict=True))
        return ContactSheet(
            title=f"{dataset.name}: in every context, after the reference of the prompt without one",
            group=dataset.group,
            source="composition",
            images=[viewable(known[name]) if name in known else b"" for name, _ in cells],
            captions=[text if name in known else "" for name, text in cells],
            per_row=1 + len(phrases()),
            ids=[name if name in known else "" for name, _ in cells],
        )


def _likeness(workspace: Workspace, images: ImageSet) -> np.ndarray:
    """`[N]` correlation of each image's pixels with those of its reference; NaN without one."""
    pairs = list(zip(images.ids, images.reference_ids, strict=True))
    found: list[float] = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[start : start + PAIRS_AT_ONCE]
        encoded = stored_images(workspace, [one for pair in some if pair[1] for one in pair])
        pixels = {name: decode_image(data).astype(np.float32).ravel() for name, data in encoded.items()}
        found += [_correlation(pixels.get(one), pixels.get(other)) for one, other in some]
    return np.array(found)


def _correlation(one: np.ndarray | None, other: np.ndarray | None) -> float:
    if one is None or other is None or len(one) != len(other):
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
