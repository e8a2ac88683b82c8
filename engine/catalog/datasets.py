"""A data set by its name in `datasets.toml` or by its folder."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from engine.catalog.index import SplitIndex, index_split
from engine.catalog.webdataset import WebDataset
from engine.catalog.worlds import resolve_location
from engine.names import unknown_name


@dataclass(frozen=True)
class Dataset:
    """A labelled data set in the webdataset layout."""

    name: str
    """Name in the catalog, or the folder's name."""
    group: str
    """Concept group: `common`, `fine`, `rare`, `novel`, or `own` for a folder that the catalog does not know."""
    metric: Literal["accuracy", "mean_per_class"]
    """How accuracy is counted: `accuracy` or `mean_per_class` (GenBench Table 4)."""
    location: str
    """Folder or URL, resolved."""
    class_names: tuple[str, ...]
    """`C` class names, by class index."""
    templates: tuple[str, ...]
    """Prompt templates with `{c}` for the class name."""

    def index(self, split: str) -> SplitIndex:
        """Keys and labels of a split.

        Raises:
            ValueError: the split is missing or broken.
        """
        return index_split(self.location, split)


@cache
def _catalog() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("engine.catalog").joinpath("datasets.toml").read_text("utf-8"))


def dataset_names() -> list[str]:
    """Names the catalog knows."""
    return list(_catalog())


@cache
def load_dataset(name: str) -> Dataset:
    """A data set by catalog name, or by the path or URL of a folder in the webdataset layout.

    Raises:
        ValueError: neither a known name nor a folder, or the folder lacks its class names.
    """
    entry = _catalog().get(name)
    if entry is None and "://" not in name and not Path(name).is_dir():
        raise ValueError(unknown_name("data set", name, dataset_names(), "or give the path of a webdataset folder"))
    if entry is None:
        location = name if "://" in name else str(Path(name).resolve())
        entry = {"group": "own", "metric": "accuracy", "location": location}
        name = location.rstrip("/").rsplit("/", 1)[-1].removeprefix("wds_")
    location = resolve_location(entry["location"])
    folder = WebDataset(location, "train")
    try:
        class_names = tuple(folder.read_lines("classnames.txt"))
    except FileNotFoundError:
        raise ValueError(
            f"{location} has no classnames.txt; add one class name a line, in the order of the class indices"
        ) from None
    if not class_names:
        raise ValueError(f"{location}/classnames.txt is empty; add one class name a line")
    try:
        templates = tuple(folder.read_lines("zeroshot_classification_templates.txt"))
    except FileNotFoundError:
        templates = ("a photo of {c}.",)
    for template in templates:
        if "{c}" not in template:
            raise ValueError(
                f"{location}: template {template!r} lacks {{c}}, the place of the class name; mend zeroshot_classification_templates.txt"
            )
    return Dataset(name, entry["group"], entry["metric"], location, class_names, templates)
