"""The price book: prices of instances per hour and of people's labels, with the source of each figure."""

import difflib
import math
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

SHIPPED_BOOK = Path(__file__).parent / "price_book.toml"
SECTIONS = ("defaults", "instances", "labels", "storage", "genbench")


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A machine for rent."""

    name: str
    """Name in the book."""
    usd_per_hour: float
    """Price of the whole node."""
    num_gpus: float
    """GPUs of the node."""
    num_cpus: float
    """vCPUs of the node."""
    accelerator: str
    """Name of its GPU, as `A100`; empty if it has none."""
    source: str
    """Document that the price is from."""
    date: str
    """Day the price was read."""
    basis: str = ""
    """Kind of the price: `on demand` or `spot`; empty if the book does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelPrice:
    """Payment of people for the label of one image."""

    name: str
    """Source of the images, as `original`."""
    usd_per_image: float
    """US dollars per label."""
    source: str
    """Document that the price is from."""
    date: str
    """Day the price was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoragePrice:
    """A place for the table."""

    name: str
    """Name in the book."""
    usd_per_gb_month: float
    """US dollars per 10^9 bytes and month."""
    source: str
    """Document that the price is from."""
    date: str
    """Day the price was read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperCost:
    """A row of GenBench's Tables 1 and 5, as printed."""

    name: str
    """Source of the images, as `original`."""
    collection: str
    """How the images are collected, in the paper's words."""
    printed_usd_per_image: float
    """US dollars per image, as printed in both tables."""
    instance: str = ""
    """Instance in this book; empty where people do the work."""
    hours_per_1000_images: float = 0.0
    """Hours of the instance per 1,000 images."""
    printed_figure_3_usd: float = 0.0
    """US dollars of 500 shots of the common concepts, as printed beside Figure 3; 0 where the paper prints none."""


Entry = TypeVar("Entry", Instance, LabelPrice, StoragePrice, PaperCost)


@dataclass(frozen=True)
class PriceBook:
    """Prices by name. Make one with `PriceBook.load`."""

    instances: Mapping[str, Instance]
    labels: Mapping[str, LabelPrice]
    defaults: Mapping[str, str]
    """Instance for each accelerator, for `gpu` (any other GPU) and for `cpu` (none)."""
    storage: Mapping[str, StoragePrice]
    genbench: Mapping[str, PaperCost]

    @classmethod
    def load(cls, path: str | Path | None = None) -> "PriceBook":
        """The shipped book, or the user's own TOML file of the same format.

        Raises ValueError, in one sentence, for a file that cannot be read, missing or unknown keys, and prices that are
        negative or not finite.
        """
        file = Path(path) if path is not None else SHIPPED_BOOK
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"price book {file} cannot be read ({error}); give the path of a TOML file") from error
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"price book {file} is not valid TOML ({error}); fix that line") from error
        _check_keys(f"price book {file}", data, SECTIONS, required=SECTIONS[:3])
        for section in SECTIONS:
            if not isinstance(data.get(section, {}), dict):
                raise ValueError(f"price book {file}: {section} is not a section; write it as [{section}]")
        book = cls(
            instances=_entries(Instance, file, "instances", data["instances"]),
            labels=_entries(LabelPrice, file, "labels", data["labels"]),
            defaults=MappingProxyType(data["defaults"]),
            storage=_entries(StoragePrice, file, "storage", data.get("storage", {})),
            genbench=_entries(PaperCost, file, "genbench", data.get("genbench", {})),
        )
        book._check_references(file)
        return book

    def instance(self, name: str) -> Instance:
        """The instance of that name. Raises ValueError, with the nearest names, if the book has none."""
        return _lookup(self.instances, name, "instance")

    def for_device(self, accelerator: str | None) -> Instance:
        """The book's default instance for a device: `None` or "" for a CPU, else the GPU's name.

        A default whose name is a word of the given one is taken (`NVIDIA H100 80GB HBM3` → `H100`). A GPU that the book
        does not know is priced as its `gpu` default, with a warning; name an instance of your own for exact dollars.
        """
        if not accelerator:
            return self.instances[self.defaults["cpu"]]
        words = set(re.split(r"[^a-z0-9]+", accelerator.lower()))
        for name, instance in self.defaults.items():
            if name not in ("cpu", "gpu") and name.lower() in words:
                return self.instances[instance]
        fallback = self.instances[self.defaults["gpu"]]
        warnings.warn(
            f"the price book has no default for {accelerator!r}; it is priced as {fallback.name}", stacklevel=2
        )
        return fallback

    def usd_per_label(self, source: str, unlisted: float | None = None) -> float:
        """US dollars that people are paid for the label of an image of that source; `unlisted` if the book has no price.

        Raises ValueError, with the nearest names, if the book has no price and `unlisted` is None.
        """
        if unlisted is not None and source not in self.labels:
            return unlisted
        return _lookup(self.labels, source, "label price").usd_per_image

    def _check_references(self, file: Path) -> None:
        for name in ("cpu", "gpu"):
            if name not in self.defaults:
                raise ValueError(f"price book {file}: defaults lacks {name}; name one of its instances")
        named = [("defaults", key, value) for key, value in self.defaults.items()]
        named += [("genbench", row.name, row.instance) for row in self.genbench.values() if row.instance]
        for section, key, value in named:
            if not isinstance(value, str) or value not in self.instances:
                raise ValueError(
                    f"price book {file}: {section}.{key} names {value!r}, which is not in its instances; add it there, or name one of them"
                )


def usd_per_device_second(instance: Instance, *, num_gpus: float = 0.0, num_cpus: float = 0.0) -> float:
    """US dollars per second of a stage that holds `num_gpus` GPUs and `num_cpus` vCPUs of one node.

    It is the node's price times the share of the node that the stage holds: the share of its GPUs if the stage holds
    GPUs and the node has some, else the share of its vCPUs. So stages that fill all GPUs (or all vCPUs) of a node
    together cost as much as the node. A CPU stage beside a GPU stage is added on top: billed dollars, not busy dollars,
    match the invoice. A stage that holds more than a node costs in proportion. Raises ValueError for negative or
    non-finite numbers.
    """
    for unit, held in (("GPUs", num_gpus), ("vCPUs", num_cpus)):
        if not (math.isfinite(held) and held >= 0):
            raise ValueError(f"a stage cannot hold {held} {unit}; give a finite number of 0 or more")
    on_gpu = num_gpus > 0 and instance.num_gpus > 0
    share = num_gpus / instance.num_gpus if on_gpu else num_cpus / instance.num_cpus
    return instance.usd_per_hour / 3600 * share


def _entries(kind: type[Entry], file: Path, section: str, values: dict[str, Any]) -> Mapping[str, Entry]:
    expected = {f.name: f for f in fields(kind) if f.name != "name"}
    required = [name for name, f in expected.items() if f.default is MISSING]
    entries = {}
    for name, entry in values.items():
        where = f"price book {file}: {section}.{name}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is {entry!r}; write it as [{section}.{name}]")
        _check_keys(where, entry, tuple(expected), required)
        for key, value in entry.items():
            _check_value(f"{where}.{key}", value, expected[key].type is str, key == "num_cpus")
        entries[name] = kind(name=name, **entry)
    return MappingProxyType(entries)


def _check_keys(where: str, values: Mapping[str, Any], known: tuple[str, ...], required: Any) -> None:
    for key in required:
        if key not in values:
            raise ValueError(f"{where} lacks {key}; add it")
    for key in values:
        if key not in known:
            raise ValueError(f"{where} has the unknown key {key!r}; it may have {', '.join(known)}")


def _check_value(where: str, value: Any, is_text: bool, is_positive: bool) -> None:
    if is_text:
        if not isinstance(value, str):
            raise ValueError(f"{where} is {value!r}; give text")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where} is {value!r}; give a finite number of 0 or more")
    elif is_positive and value == 0:
        raise ValueError(f"{where} is 0; give the node's vCPUs")


def _lookup(entries: Mapping[str, Entry], name: str, what: str) -> Entry:
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=3, cutoff=0.4) or sorted(entries)
    raise ValueError(f"the price book has no {what} {name!r}; the nearest are {', '.join(near)}")
