"""A data set by its name in `datasets.toml` or by its folder."""

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from engine.catalog.account import Account
from engine.catalog.corpus import open_layout
from engine.catalog.index import SplitIndex, account_of, index_split
from engine.catalog.labels import display_names, match_name
from engine.catalog.layouts import Layout
from engine.catalog.worlds import resolve_location
from engine.names import unknown_name

Task: TypeAlias = Literal["multiclass", "multilabel", "binary"]
Metric: TypeAlias = Literal["accuracy", "mean_per_class", "map_11_point", "map_11_point_toolkit", "roc_auc"]

TEMPLATES_FILE = "zeroshot_classification_templates.txt"


@dataclass(frozen=True)
class Dataset:
    """A labelled data set."""

    name: str
    """Name in the catalog, or the folder's name."""
    group: str
    """Concept group: `common`, `fine`, `rare`, `novel`, or `own` for a folder that the catalog does not know."""
    metric: Metric
    """What it is scored by (GenBench Table 4): `accuracy`, `mean_per_class`, `map_11_point` or `roc_auc`."""
    location: str
    """Folder or URL, resolved."""
    class_names: tuple[str, ...]
    """`C` class names, by class index."""
    templates: tuple[str, ...]
    """Prompt templates with `{c}` for the class name."""
    task: Task = "multiclass"
    """Whether an image has one label of `C`, several (`multilabel`), or one of two (`binary`)."""
    test_only: bool = False
    """Whether it has no images to train on (SUN397)."""
    prompts: tuple[tuple[str, ...], ...] = ()
    """Prompts written for each of the `C` classes, for the strategy `written_prompt`; empty if there are none."""

    def index(self, split: str) -> SplitIndex:
        """Keys and labels of a split; images whose label fits no class name are left out of it, and in its account.

        Raises:
            ValueError: the split is missing or broken, or too much of it is refused.
        """
        if split == "train" and self.test_only:
            raise ValueError(
                f"{self.name} has test images only, so there is no original data to train on; "
                "leave out the data set or the source 'original'"
            )
        return index_split(self.location, split, self._text_suffix).labelled(self.class_names, self.location)

    def accounts(self, splits: Sequence[str] = ("train", "test")) -> dict[str, Account]:
        """Split → account of its items; under the empty name, of all other files. Raises ValueError as `index`."""
        return account_of(self.location, splits, self.index)

    @property
    def _text_suffix(self) -> str:
        return "npy" if self.task == "multilabel" else "cls"


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the catalog knows of a published data set: GenBench's (Table 4), and RealRAG's Stanford Dogs."""

    name: str
    """Name in the catalog."""
    title: str
    """Name in the paper."""
    group: str
    """`common`, `fine` or `rare`."""
    task: Task
    """`multiclass`, `multilabel` or `binary`."""
    metric: Metric
    """What it is scored by."""
    num_classes: int
    """Categories."""
    train_images: int
    """Images to train on in the folder at `location`; 0 if there are none."""
    test_images: int
    """Test images in that folder."""
    paper_test_images: int
    """Validation size that the paper prints."""
    class_names: str
    """Where our own list of class names is from."""
    paper_classes: int | None = None
    """Categories that the paper's table prints, where these differ."""
    location: str = ""
    """URL of the folder; empty if there is no public one."""
    templates: tuple[str, ...] = ()
    """Templates for a folder that brings none."""
    licence: str | None = None
    """Licence of the images, where a source states one."""
    licence_source: str | None = None
    """Where that is stated."""
    licence_date: str | None = None
    """When it was read there."""
    in_genbench: bool = True
    """Whether it is one of GenBench's 22."""


@cache
def _catalog() -> dict[str, dict[str, Any]]:
    read = {
        name: files("engine.catalog").joinpath(f"{name}.toml").read_text("utf-8") for name in ("datasets", "templates")
    }
    entries, templates = (tomllib.loads(text) for text in read.values())
    return {
        name: ({"templates": templates[name]} if name in templates else {}) | entry for name, entry in entries.items()
    }


def dataset_names() -> list[str]:
    """Names the catalog knows."""
    return list(_catalog())


@cache
def genbench_datasets() -> dict[str, DatasetFacts]:
    """GenBench's 22 data sets by name, in the order of its Table 4."""
    return {name: facts for name, facts in published_datasets().items() if facts.in_genbench}


@cache
def published_datasets() -> dict[str, DatasetFacts]:
    """The data sets of both papers by name."""
    return {
        name: DatasetFacts(name=name, **entry | {"templates": tuple(entry.get("templates", ()))})
        for name, entry in _catalog().items()
        if "title" in entry
    }


def listed_class_names(name: str) -> tuple[str, ...]:
    """Our own list of a published data set's class names, for where its folder is not at hand.

    Its order need not be that of a folder's labels: match the two by name (`engine.names.plain_name`).

    Raises:
        ValueError: no such data set.
    """
    if name not in published_datasets():
        raise ValueError(unknown_name("data set", name, list(published_datasets())))
    text = files("engine.catalog").joinpath("class_names", f"{name}.txt").read_text("utf-8")
    return tuple(text.splitlines())


def dataset_licence(name: str) -> str:
    """Licence of the images of a data set of the catalog; empty if no source states one, or the catalog does not know it."""
    return str(_catalog().get(name, {}).get("licence") or "")


def load_dataset(name: str) -> Dataset:
    """A data set by catalog name, by the path or URL of a folder, or as `NAME=PATH`, a catalog entry read elsewhere.

    Folders may hold tar shards, images in a folder for each class, or Hugging Face tables (`engine.catalog.layouts`).

    Raises:
        ValueError: neither a known name nor a folder, or the folder lacks its class names.
    """
    if not name.strip():
        raise ValueError(
            "the name of a data set is empty; give a name of the catalog, or the path of a folder of images"
        )
    known, _, elsewhere = name.partition("=")
    entry = _catalog().get(known if elsewhere else name)
    location = elsewhere if entry and elsewhere else name if entry is None else entry.get("location", "")
    if "://" not in location:
        location = os.path.expanduser(location)
    if (entry is None or elsewhere) and "://" not in location and not Path(location).is_dir():
        raise ValueError(unknown_name("data set", name, dataset_names(), "or give the path of a folder of images"))
    if not location:
        raise ValueError(f"{name} has no public folder; get it under its licence and give {name}=PATH")
    if "://" not in location and not location.startswith("world:"):
        location = str(Path(location).resolve())
    if entry is None:
        return _read_folder(location.rstrip("/").rsplit("/", 1)[-1].removeprefix("wds_"), {}, location)
    return _read_folder(known, entry, resolve_location(location))


def _read_folder(name: str, entry: dict[str, Any], location: str) -> Dataset:
    layout = open_layout(location)
    folder, kind = layout.folder, layout.kind
    test_only = entry.get("train_images") == 0 and "train" not in layout.splits()
    several = folder.read_lines("dataset_type.txt") == ["multilabel"] or kind == "multi_hot"
    task = entry.get("task", "multilabel" if several else "multiclass")
    if several != (task == "multilabel"):
        raise ValueError(
            f"{location} holds {'several labels' if several else 'one label'} per image, but {name} is {task}; give another folder"
        )
    # the order of the lines counts where labels are their numbers
    listed = folder.read_lines("classnames.txt", numbered=kind != "name")
    class_names = tuple(listed or _own_class_names(name, entry, layout))
    if not class_names:
        raise ValueError(
            f"{location} has no classnames.txt, or an empty one; add one class name per line, in the order of the class indices"
        )
    if kind == "multi_hot" and [match_name(each, class_names) for each in layout.class_names()] != list(
        range(len(class_names))
    ):
        raise ValueError(f"{location}: classnames.txt has another order than the ClassLabel; remove it")
    if len(class_names) != entry.get("num_classes", len(class_names)):
        raise ValueError(
            f"{location} names {len(class_names)} classes, but {name} has {entry['num_classes']}; give another folder"
        )
    templates = folder.read_lines(TEMPLATES_FILE) or entry.get("templates") or ("a photo of {c}.",)
    for template in templates:
        if "{c}" not in template:
            raise ValueError(
                f"{location}: template {template!r} lacks {{c}}, the place of the class name; fix {TEMPLATES_FILE}"
            )
    metric = entry.get("metric", "map_11_point" if several else "accuracy")
    return Dataset(name, entry.get("group", "own"), metric, location, class_names, tuple(templates), task, test_only)


def _own_class_names(name: str, entry: dict[str, Any], layout: Layout) -> list[str]:
    """Names that the layout itself has: those of the catalog's list where it is one, matched by name."""
    raw = layout.class_names()
    if "title" not in entry or layout.kind != "name":
        return display_names(raw)
    listed = listed_class_names(name)
    for each in raw:
        try:
            match_name(each, listed, f"class of {name}")
        except ValueError as error:
            raise ValueError(f"{layout.folder.location}: {error}") from None
    return list(listed)
