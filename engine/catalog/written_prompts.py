"""A file of prompts for the classes of data sets, as a language model writes them for RealRAG's novel objects (section 4.3)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.catalog.datasets import Dataset
from engine.catalog.labels import match_name


def with_prompts(datasets: Sequence[Dataset], path: Path) -> list[Dataset]:
    """The data sets, those whose classes the file names with its prompts.

    The file is JSON, class name → prompts: `{"Cybertruck": ["A Cybertruck is speeding along the Great Wall."]}`. A data set
    must have prompts for all of its classes or for none.

    Raises:
        ValueError: the file cannot be read, or names a class that no data set or several have, or lacks a class's prompts.
    """
    found: dict[str, dict[int, tuple[str, ...]]] = {dataset.name: {} for dataset in datasets}
    for name, prompts in _read(path).items():
        owner, number = _class_of(name, datasets, path)
        found[owner.name][number] = prompts
    return [_given(dataset, found[dataset.name], path) for dataset in datasets]


def _given(dataset: Dataset, prompts: dict[int, tuple[str, ...]], path: Path) -> Dataset:
    if not prompts:
        return dataset
    for number, name in enumerate(dataset.class_names):
        if number not in prompts:
            raise ValueError(f"{path} has no prompts of {name!r}, a class of {dataset.name}; add some")
    return replace(dataset, prompts=tuple(prompts[number] for number in range(len(dataset.class_names))))


def _class_of(name: str, datasets: Sequence[Dataset], path: Path) -> tuple[Dataset, int]:
    owners = []
    for dataset in datasets:
        try:
            owners.append((dataset, match_name(name, dataset.class_names)))
        except ValueError as error:
            last = error
    if len(owners) > 1:
        several = " and ".join(dataset.name for dataset, _ in owners)
        raise ValueError(f"{path}: {name!r} is a class of {several}; leave one of the data sets out")
    if not owners:
        raise ValueError(f"{path}: {last}")
    return owners[0]


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the prompts {path} cannot be read ({error}); give a JSON file of class names and prompts"
        ) from error
    if not isinstance(data, dict) or not data:
        raise ValueError(f'the prompts {path} are not of the form {{"CLASS": ["PROMPT", …]}}; write them so')
    for name, prompts in data.items():
        if (
            not isinstance(prompts, list)
            or not prompts
            or not all(isinstance(each, str) and each.strip() for each in prompts)
        ):
            raise ValueError(f"{path}: {name!r} has no list of prompts; give one or more texts in brackets")
    return {name: tuple(prompts) for name, prompts in data.items()}
