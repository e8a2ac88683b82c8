"""`imagefoundry regenerate`: make images of a workspace again from their recipes, and compare them with what is stored."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from engine.images import ImageFormat, content_hash, decode_image
from engine.recipe import IMAGE_SCHEMA, Recipe

if TYPE_CHECKING:
    from engine.models import GeneratorSpec
    from engine.sources import Made
    from engine.store import Workspace


@dataclass(frozen=True)
class RegenerateConfig:
    """The images to make again. The workspace is only read."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ID ...")] = ()
    """Ids of the images (32 hexadecimal digits each)."""
    sample: int = 0
    """Make this many random images again instead of given ids."""
    where: str | None = None
    """SQL condition on the sample, as "generator = 'sd21'"."""
    seed: int = 0
    """Seed of the sample."""
    generator: str = ""
    """Registry name or diffusers folder of the generator; that of the recipe if empty. A recipe knows a folder by its name alone."""
    speed: str = "exact"
    """Speed that the images were made with: exact, fast or lossy."""
    corpora: tuple[str, ...] = ()
    """NAME=PATH of corpora that images were read from, where they are not at their place of the catalog."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the generator."""


@dataclass(frozen=True)
class Again:
    """One image and its second making."""

    id: str
    is_equal: bool
    """Whether both have the same pixels."""
    levels: int | None
    """Largest difference of two pixels, in grey levels of 255; None where there is no second image of the same size."""
    note: str = ""
    """Why it could not be made, or in what the two makings differed."""


@dataclass
class Regenerated:
    """Images that were made again."""

    images: list[Again] = field(default_factory=list)

    @property
    def num_equal(self) -> int:
        """Images with the same pixels, bit for bit."""
        return sum(one.is_equal for one in self.images)

    def print(self) -> int:
        """Prints one line per image and the count; returns the exit code, 1 if one differs."""
        for one in self.images:
            same = "equal bit for bit" if one.is_equal else "differs"
            far = f" by up to {one.levels} of 255 levels" if one.levels and not one.is_equal else ""
            print(f"{one.id}  {same}{far}{f' ({one.note})' if one.note else ''}")
        print(f"{self.num_equal} of {len(self.images)} images are equal bit for bit.")
        return 0 if self.num_equal == len(self.images) else 1


def regenerate(config: RegenerateConfig) -> Regenerated:
    """Makes images again: generated ones from the weights, read ones from their corpus, in batches of the recorded size.

    Raises ValueError if an id is not in the workspace, or if the weights here are not those of the recipe.
    """
    from engine.cli.show import chosen_ids
    from engine.store import Workspace

    workspace = Workspace.open(config.workspace, create=False)
    ids = chosen_ids(workspace, config.ids, config.sample, config.where, config.seed)
    names = [name for name in IMAGE_SCHEMA.names if name in workspace.image_schema().names]
    rows = workspace.fetch(ids, names).to_pylist()
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["generator"], row["batch_size"] if row["generator"] else 0), []).append(row)
    found: dict[str, Again] = {}
    for (generator, batch_size), alike in groups.items():
        recipes = [Recipe.from_dict(row) for row in alike]
        if generator:
            made, here = _generate(config, workspace, recipes, generator, batch_size)
        else:
            made, here = _read(config, recipes), {}
        for row, one in zip(alike, made, strict=True):
            found[row["id"]] = _compared(row, one, here)
    return Regenerated([found[one] for one in ids])


def _generate(
    config: RegenerateConfig, workspace: "Workspace", recipes: list[Recipe], generator: str, batch_size: int
) -> "tuple[list[Made], dict[str, Any]]":
    """Results, and the columns that describe how they were made."""
    import torch

    from engine.models import generator_spec
    from engine.models.device import device_name, torch_device
    from engine.models.precision import native_dtype
    from engine.sources import GeneratorMaker

    spec = generator_spec(config.generator or generator, speed=config.speed)
    for recipe in recipes:
        _check_weights(spec, recipe)
    has_gpu = torch.cuda.is_available()
    if config.device == "gpu" and not has_gpu:
        raise ValueError("this machine has no GPU; leave out --device, or run this where there is one")
    device = torch_device(has_gpu and config.device != "cpu")
    maker = GeneratorMaker(spec, batch_size, references=workspace.uri)
    with _as_on_workers(device):
        maker.load(device)
        made = [
            one
            for start in range(0, len(recipes), batch_size)
            for one in maker.make(recipes[start : start + batch_size])
        ]
    here = {"device": device_name(device), "dtype": native_dtype(spec.dtype, device), "batch_size": batch_size}
    return made, here


def _check_weights(spec: "GeneratorSpec", recipe: Recipe) -> None:
    from engine.models.inversion.tokens import MARK

    revision = spec.recipe_revision(recipe.reference_mode)
    if revision != recipe.revision.partition(MARK)[0]:
        raise ValueError(
            f"image {recipe.id} was made by revision {recipe.revision} of {recipe.generator}, and {spec.source} is revision "
            f"{revision}; give the weights of then with --generator, and --speed if it was not exact"
        )


@contextmanager
def _as_on_workers(device: str) -> Iterator[None]:
    """One thread per process on a CPU, as the workers of a run have: the order of sums depends on it."""
    import torch

    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read(config: RegenerateConfig, recipes: list[Recipe]) -> "list[Made]":
    from engine.sources import CorpusMaker

    given = dict(_named(text) for text in config.corpora)
    places = {name: given.get(name) or _place(name) for name in {recipe.corpus for recipe in recipes}}
    return CorpusMaker(places).make(recipes)


def _named(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not (name and equals and place):
        raise ValueError(f"corpus {text!r} is not NAME=PATH; give the name in the recipe and its folder or URL")
    return name, place


def _place(corpus: str) -> str:
    from engine.catalog import load_dataset
    from engine.catalog.worlds import resolve_location

    try:
        return load_dataset(corpus).location
    except ValueError:  # a pool has a place but no classes
        place = resolve_location(corpus)
    if place == corpus:
        raise ValueError(f"corpus {corpus} is not in the catalog; say where it is with --corpora {corpus}=PATH")
    return place


def _compared(row: Mapping[str, Any], made: "Made", here: Mapping[str, Any]) -> Again:
    if made.pixels is None:
        return Again(row["id"], False, None, made.reason)
    pixels = made.pixels.permute(1, 2, 0).cpu().numpy()
    if here and row.get("image_format"):
        kept = _format(row["image_format"])
        pixels = pixels if kept.is_lossless else decode_image(kept.encode(np.ascontiguousarray(pixels)))
    if content_hash(np.ascontiguousarray(pixels)) == row["content_hash"]:
        return Again(row["id"], True, 0)
    stored = decode_image(row["image"])
    levels = int(np.abs(stored.astype(int) - pixels).max()) if stored.shape == pixels.shape else None
    then = [f"{name} {row[name]} then, {value} now" for name, value in here.items() if row[name] != value]
    return Again(row["id"], False, levels, ", ".join(then))


def _format(text: str) -> ImageFormat:
    name, _, quality = text.partition("-")
    return ImageFormat(name, int(quality) if quality else None)
