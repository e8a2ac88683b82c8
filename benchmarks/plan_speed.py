#!/usr/bin/env python3
"""Planning all of GenBench: 22 data sets x their 2548 classes x 500 shots on one core, per strategy.

python -m benchmarks.plan_speed

Every recipe is computed and dropped, as a run does it. Class names and templates are made up here, as long as real ones
are; the work does not depend on what they say. Beside the recipes alone (goal: <= 60 s), the same with each recipe's id, which is
what a run asks its table for. Memory is the process' peak, before and after.
"""

import argparse
import resource
import time
from collections.abc import Iterator

from benchmarks.common import machine
from engine.catalog import Dataset
from engine.models import GeneratorSpec
from engine.prompts import Materials
from engine.sources import GenerativePlan, ShotIds
from engine.sources.plan import ClassPlan

CLASSES = {
    "imagenet1k": 1000,
    "cifar10": 10,
    "cifar100": 100,
    "caltech101": 102,
    "voc2007": 20,
    "mnist": 10,
    "sun397": 397,
    "food101": 101,
    "pets": 37,
    "flowers": 102,
    "cars": 196,
    "fgvc_aircraft": 100,
    "country211": 211,
    "pcam": 2,
    "eurosat": 10,
    "gtsrb": 43,
    "renderedsst2": 2,
    "fer2013": 7,
    "resisc45": 45,
    "hateful_memes": 2,
    "dtd": 47,
    "kitti_distance": 4,
}
"""Classes of each set (GenBench Table 4, with Caltech's background class and FER's seven emotions)."""
SHOTS = 500
STRATEGIES = (
    "simple_template",
    "defined_template",
    "category_enhancement",
    "defined_template+restrictive_description",
    "defined_template+negative_prompts",
    "defined_template+negative_prompts+restrictive_description",
    "defined_template+retrieval_augmented",
)
SPEC = GeneratorSpec(name="sd21", pipeline="StableDiffusionPipeline", source="hub", revision="0123456789abcdef")


def datasets() -> Iterator[Dataset]:
    """The 22 sets, with names and templates of the usual lengths."""
    templates = tuple(f"a {number} photo of the {{c}}, a type of thing." for number in range(18))
    for name, count in CLASSES.items():
        names = tuple(f"{name} category number {number}" for number in range(count))
        yield Dataset(name, "own", "accuracy", "nowhere", names, templates)


def plans(strategy: str, materials: Materials) -> list[GenerativePlan]:
    """One plan per data set."""
    return [GenerativePlan(dataset, SPEC, strategy, SHOTS, materials=materials) for dataset in datasets()]


def materials_for(strategy: str) -> Materials:
    """200 sentences per class; for references a plan of 20 shots per class, whose ids are computed on demand."""
    sentences: dict[str, list[list[str]]] = {}
    references: dict[str, ShotIds] = {}
    if "category_enhancement" in strategy:
        sentences = {
            dataset.name: [
                [f"sentence {n} about the {name} on a table" for n in range(200)] for name in dataset.class_names
            ]
            for dataset in datasets()
        }
    if "retrieval_augmented" in strategy:
        references = {dataset.name: ShotIds(_references(dataset)) for dataset in datasets()}
    return Materials(sentences, references)


def _references(dataset: Dataset) -> ClassPlan:
    return GenerativePlan(dataset, SPEC, "simple_template", 20)


def peak_mib() -> float:
    """This process' peak memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints seconds and memory for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--ids", action="store_true", help="also with the recipes' ids")
    options = parser.parse_args()
    total = SHOTS * sum(CLASSES.values())
    print(f"{machine()}; {len(CLASSES)} sets, {sum(CLASSES.values())} classes, {total:,} recipes")
    for strategy in options.strategies:
        materials = materials_for(strategy)
        for what in ("recipes", "recipes and ids")[: 1 + options.ids]:
            before = peak_mib()
            started = time.process_time()
            for plan in plans(strategy, materials):
                for index in range(len(plan)):
                    recipe = plan[index]
                    if what != "recipes":
                        _ = recipe.id
            seconds = time.process_time() - started
            print(
                f"{strategy:62} {what:16} {seconds:6.1f} s {seconds / total * 1e6:6.1f} us each   "
                f"peak {before:,.0f} -> {peak_mib():,.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
