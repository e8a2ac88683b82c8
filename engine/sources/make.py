"""Makers turn recipes into pixels on a worker; one bad recipe does not affect the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.catalog.corpus import key_name, read_each
from engine.images import ImageFormat, content_hash, decode_image
from engine.models.faults import DeviceFault, is_device_fault
from engine.models.generator import OnStep, Stopped, to_uint8
from engine.models.load import load_generator
from engine.models.preprocessing import Preprocessing
from engine.models.resolve import generator_spec
from engine.models.spec import GeneratorSpec
from engine.recipe import Recipe
from engine.sources.injected import load_tokens, needed_tokens
from engine.store import Workspace

if TYPE_CHECKING:
    import torch

    from engine.models.generator import DiffusionGenerator


@dataclass(frozen=True)
class Stored:
    """The part of a row that describes the image itself."""

    encoded: bytes
    """Encoded bytes, as they are stored."""
    content_hash: str
    """Hash of the decoded pixels (`engine.images.content_hash`)."""
    height: int
    """Pixels of the stored image."""
    width: int
    """Pixels of the stored image."""
    image_format: str | None = None
    """Format and quality of a generated image, as `webp-90`; None for the bytes of a file."""


def encode_generated(pixels: np.ndarray, image_format: ImageFormat) -> tuple[Stored, np.ndarray]:
    """Encodes a generated image `[H, W, 3]` uint8; returns it with the pixels `[H, W, 3]` uint8 that its bytes decode to."""
    encoded = image_format.encode(pixels)
    kept = pixels if image_format.is_lossless else decode_image(encoded)
    return Stored(encoded, content_hash(kept), kept.shape[0], kept.shape[1], str(image_format)), kept


@dataclass
class Made:
    """The result of one recipe: pixels, or the reason why there are none."""

    pixels: "torch.Tensor | None" = None
    """`[3, H, W]` uint8 on the maker's device; of a generated image."""
    views: "list[torch.Tensor]" = field(default_factory=list)
    """uint8 `[3, h, w]` of an image that was read, in each size that was asked for."""
    stored: Stored | None = None
    """The image as it is stored; None for generated pixels that are not yet encoded."""
    reason: str = ""
    """Reason why there is no image."""
    batch_size: int = 1
    """Size of the batch that the image was made in."""
    dtype: str = "uint8"
    """Data type of the arithmetic."""
    search_seconds: float = 0.0
    """Busy seconds spent to find the image before the worker read it (retrieval)."""


class Maker(Protocol):
    """Makes images from recipes; a small picklable description, `load`ed once per worker."""

    @property
    def rows_per_call(self) -> int:
        """Number of recipes passed to `make` at once."""
        ...

    @property
    def gpus_per_actor(self) -> float:
        """Share of a GPU that an actor holds where the cluster has GPUs."""
        ...

    @property
    def needs_gpu(self) -> bool:
        """Whether the work waits for a GPU instead of running on processors."""
        ...

    def reads(self, source: str) -> bool:
        """Whether images of this source are read from files, which needs a processor and no device."""
        ...

    def load(self, device: str) -> None:
        """Reads weights onto the device."""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """One result per recipe, in their order; never raises for a single bad recipe.

        Raises:
            DeviceFault: the device is unusable from now on.
        """
        ...

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        """The same for sources that are read; one view for each of `sizes`, None for the image's own size."""
        ...


@dataclass
class CorpusMaker:
    """Reads retrieved and original images out of their folders."""

    corpora: dict[str, str]
    """Corpus name → folder or URL."""
    search_seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    """(Source, data set) → seconds per image that finding it took (retrieval)."""
    rows_per_call: int = 64
    gpus_per_actor: float = 0.25
    needs_gpu: bool = False

    def reads(self, source: str) -> bool:
        """True: all images are read."""
        return True

    def load(self, device: str) -> None:
        """Nothing to load: shards are opened as they are asked for."""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """Images at their own size."""
        made = self.read(recipes)
        for one in made:
            one.pixels = one.views[0] if one.views else None
        return made

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        """Decoded images, one at a time, so that few full-size pixels exist at once; a bad image gives its reason."""
        made = [
            Made(search_seconds=self.search_seconds.get((recipe.source, recipe.dataset), 0.0)) for recipe in recipes
        ]
        for corpus in dict.fromkeys(recipe.corpus for recipe in recipes):
            rows = [number for number, recipe in enumerate(recipes) if recipe.corpus == corpus]
            keys = [recipes[row].key for row in rows]
            for number, key, data in zip(rows, keys, read_each(self.corpora[corpus], keys), strict=True):
                try:
                    if isinstance(data, ValueError):
                        raise data
                    _decode_into(made[number], data, sizes)
                except Exception as error:  # one image's failure, of whatever kind, is its own row
                    made[number].stored, made[number].views = None, []
                    why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                    made[number].reason = f"{key_name(key)}: {why}"
        return made


def _decode_into(made: Made, data: bytes, sizes: Sequence[Preprocessing | None]) -> None:
    """Decodes into `made`. Raises ValueError if the bytes are not an image."""
    import torch

    pixels = decode_image(data)
    made.stored = Stored(data, content_hash(pixels), pixels.shape[0], pixels.shape[1])
    for size in sizes:
        shown = np.moveaxis(pixels, 2, 0).copy() if size is None else size.resize_array(pixels)
        made.views.append(torch.from_numpy(shown))


class Generates:
    """Base of makers that generate all their images and read none."""

    needs_gpu = False

    def reads(self, source: str) -> bool:
        """False: no image is read."""
        return False

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        """Never called, since nothing is read."""
        raise AssertionError("a maker that generates reads no images")


@dataclass
class GeneratorMaker(Generates):
    """Generates images with one generator."""

    generator: str | GeneratorSpec
    """Name, folder or spec, as `load_generator` takes it."""
    batch_size: int
    gpus_per_actor: float = 1.0
    references: str = ""
    """Workspace that holds the reference images and the learned tokens which recipes name."""
    needs_gpu: bool = False
    """Whether to wait for a GPU where the cluster has none."""
    _generator: "DiffusionGenerator | None" = None
    _workspace: Workspace | None = None

    @property
    def rows_per_call(self) -> int:
        """Size of a model batch."""
        return self.batch_size

    @property
    def spec(self) -> GeneratorSpec:
        """The generator's entry."""
        return generator_spec(self.generator) if isinstance(self.generator, str) else self.generator

    def load(self, device: str) -> None:
        """Reads the pipeline's weights onto the device."""
        self._generator = load_generator(self.generator, device=device, batch_size=self.batch_size)
        self._workspace = Workspace.open(self.references, create=False) if self.references else None

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """Images of the recipes; if a batch fails, its recipes are tried one by one to find the failing one."""
        assert self._generator is not None, "load() comes first"
        made: dict[int, Made] = {}
        groups: dict[object, list[int]] = {}
        images = self._fetch_references({recipe.reference_id for recipe in recipes} - {""})
        lacking = self._add_tokens(self._generator, needed_tokens(recipes))
        for number, recipe in enumerate(recipes):
            if missing := needed_tokens([recipe]) & set(lacking):
                made[number] = Made(reason=lacking[missing.pop()])
            elif recipe.reference_id and recipe.reference_id not in images:
                made[number] = Made(reason=f"its reference image {recipe.reference_id} is not in the table")
            else:
                groups.setdefault(self._generator.batch_key(recipe), []).append(number)
        for rows in groups.values():
            alike = make_alike(self._generator, [recipes[number] for number in rows], images)
            made.update(zip(rows, alike, strict=True))
        return [made[number] for number in range(len(recipes))]

    def _add_tokens(self, generator: "DiffusionGenerator", hashes: set[str]) -> dict[str, str]:
        """Loads learned tokens; hash → reason of those that cannot be loaded."""
        new = hashes - set(generator.tokens)
        if not new:
            return {}
        try:
            found = load_tokens(self._workspace, new) if self._workspace else {}
            generator.add_tokens(found)
        except ValueError as error:
            return dict.fromkeys(new, str(error))
        return {one: f"its learned token {one} is not in the workspace; fit it again" for one in new - set(found)}

    def _fetch_references(self, ids: set[str]) -> dict[str, np.ndarray]:
        """Id → uint8 `[H, W, 3]`, of those that are in the table."""
        if not ids or self._workspace is None:
            return {}
        found = self._workspace.fetch(sorted(ids), ["image"])
        return {
            key: decode_image(data)
            for key, data in zip(found.column("id").to_pylist(), found.column("image").to_pylist(), strict=True)
        }


class BatchFailed(Exception):
    """A batch of several images failed; made one by one, only the cause fails."""


def make_alike(
    generator: "DiffusionGenerator", recipes: Sequence[Recipe], references: Mapping[str, np.ndarray]
) -> list[Made]:
    """Images of recipes with equal `batch_key`.

    If the batch fails, those that are refused or whose prompts cannot be encoded are left out, and the others are made together.
    If that is not the cause, each is made alone to find the failing one.

    Raises:
        DeviceFault: the device is unusable from now on.
    """
    try:
        return make_together(generator, recipes, references)
    except BatchFailed:
        faults = [_text_fault(generator, recipe) for recipe in recipes]
        if not any(faults):
            return [result for recipe in recipes for result in make_together(generator, [recipe], references)]
        good = [recipe for recipe, fault in zip(recipes, faults, strict=True) if not fault]
        made = iter(make_alike(generator, good, references) if good else ())
        return [Made(reason=fault) if fault else next(made) for fault in faults]


def _text_fault(generator: "DiffusionGenerator", recipe: Recipe) -> str:
    """Why the generator refuses the recipe, or cannot encode its prompts; empty if it can."""
    try:
        generator.check(recipe)
        generator.check_text(recipe)
    except Exception as error:  # a library's failure on one prompt may be of any kind
        if is_device_fault(error):
            raise DeviceFault(generator.device, str(error)) from error
        return f"{type(error).__name__}: {error}"
    return ""


def make_together(
    generator: "DiffusionGenerator",
    recipes: Sequence[Recipe],
    references: Mapping[str, np.ndarray],
    on_step: OnStep | None = None,
) -> list[Made]:
    """Images of recipes with equal `batch_key`, each with its pixels or the reason why there are none.

    Raises:
        BatchFailed: there are several recipes, and one of them (or all) failed.
        DeviceFault: the device is unusable from now on.
        Stopped: `on_step` raised it.
    """
    import torch

    try:
        pixels = generator.sample(recipes, references, on_step)
    except Stopped:
        raise
    except (torch.OutOfMemoryError, MemoryError):
        reason = f"generator {generator.spec.name} does not fit into the memory of {generator.device} even alone"
        return [Made(reason=reason) for _ in recipes]
    except Exception as error:  # a library's failure on one prompt may be of any kind
        if is_device_fault(error):
            raise DeviceFault(generator.device, str(error)) from error
        if len(recipes) > 1:
            raise BatchFailed from error
        return [Made(reason=f"{type(error).__name__}: {error}")]
    finite = torch.isfinite(pixels).flatten(1).all(1).tolist()
    images = to_uint8(torch.nan_to_num(pixels))
    return [
        Made(image, batch_size=generator.batch_size, dtype=generator.dtype)
        if good
        else Made(reason="the generator returned pixels that are not finite")
        for image, good in zip(images, finite, strict=True)
    ]


@dataclass
class MakerBySource:
    """Hands each recipe to its source's maker, so that one pool of actors serves them all; a maker is loaded when it is first needed."""

    makers: dict[str, Maker]
    """Source → maker; all take the same share of a GPU."""
    _device: str = ""
    _loaded: set[str] = field(default_factory=set)

    @property
    def rows_per_call(self) -> int:
        """The largest of the makers' own; a smaller one is called several times."""
        return max(maker.rows_per_call for maker in self.makers.values())

    @property
    def gpus_per_actor(self) -> float:
        """The share that all makers have."""
        return max(maker.gpus_per_actor for maker in self.makers.values())

    @property
    def needs_gpu(self) -> bool:
        """Whether one of the makers needs one."""
        return any(maker.needs_gpu for maker in self.makers.values())

    def reads(self, source: str) -> bool:
        """The answer of the source's maker."""
        return self.makers[source].reads(source)

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        """Results in the order of the recipes, all of sources that are read."""
        made: dict[int, Made] = {}
        for source in dict.fromkeys(recipe.source for recipe in recipes):
            rows = [number for number, recipe in enumerate(recipes) if recipe.source == source]
            read = self.makers[source].read([recipes[number] for number in rows], sizes)
            made.update(zip(rows, read, strict=True))
        return [made[number] for number in range(len(recipes))]

    def load(self, device: str) -> None:
        """Remembers the device."""
        self._device = device

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """Results in the order of the recipes."""
        made: dict[int, Made] = {}
        for source, maker in self.makers.items():
            rows = [number for number, recipe in enumerate(recipes) if recipe.source == source]
            if rows and source not in self._loaded:
                maker.load(self._device)
                self._loaded.add(source)
            for start in range(0, len(rows), maker.rows_per_call):
                part = rows[start : start + maker.rows_per_call]
                made.update(zip(part, maker.make([recipes[number] for number in part]), strict=True))
        return [made[number] for number in range(len(recipes))]
