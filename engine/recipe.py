"""A recipe determines an image; its hash is the image's id; a row of the image table is the recipe and its result."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from operator import attrgetter, itemgetter
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
"""Increased when a column of the image table changes its meaning; a workspace of another version is refused."""

_PERSON = b"imagefoundry-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that determines one image (design, idea 1). Fields that a source does not use keep their defaults."""

    source: str
    """Where the image comes from: `generative`, `injected`, `retrieval` or `original`."""
    dataset: str
    """Data set whose class this image is made for."""
    class_index: int
    """Index of the class in the data set's class list."""
    class_name: str
    """Name of the class, as in the data set's class list."""
    split: str = "train"
    """`train` for images to learn from, `test` for the data set's own test images."""
    strategy: str = ""
    """Prompt strategy (GenBench section 2.3)."""
    prompt: str = ""
    """Text the image is generated or retrieved for."""
    negative_prompt: str = ""
    """Text for the sampler to steer away from."""
    generator: str = ""
    """Name of the generator."""
    revision: str = ""
    """Revision of the generator's weights and of the learned token in the prompt, or of the corpus."""
    num_inference_steps: int = 0
    """Sampler steps."""
    guidance_scale: float = 0.0
    """Classifier-free guidance scale."""
    height: int = 0
    """Height in pixels requested from the generator."""
    width: int = 0
    """Width in pixels requested from the generator."""
    seed: int = 0
    """Seed of the initial noise, 0 <= seed < 2**63."""
    reference_id: str = ""
    """Id of the image given to the generator as a reference (RealRAG Eq. 10)."""
    reference_mode: str = ""
    """How the reference enters: `img2img`, `controlnet`, `ip_adapter`, `native`, …"""
    reference_scale: float = 0.0
    """Strength of the reference, in the units of its mode."""
    corpus: str = ""
    """Collection a retrieved or original image is taken from."""
    key: str = ""
    """Key of the image in its corpus."""

    def __post_init__(self) -> None:
        # millions are made: usual values pass these few calls, the loop says what is wrong with others, or converts them
        values = _VALUES(self)
        if [*map(type, values)] == _KINDS:
            whole, fractions = _WHOLE(values), _FRACTIONS(values)
            if min(whole) >= 0 and max(whole) < 2**63 and all(map(_is_plain, fractions)):
                return
        for name, kind in _TYPES.items():
            value: Any = getattr(self, name)
            if kind is float:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"recipe field {name} is {value!r}; give a finite number")
                object.__setattr__(self, name, float(value) + 0.0)  # -0.0 equals 0.0, so both must hash alike
            elif type(value) is not kind:
                raise ValueError(f"recipe field {name} is {value!r}; give a value of type {kind.__name__}")
            elif kind is int and (value < 0 or value >= 2**63):  # type: ignore[operator]
                raise ValueError(f"recipe field {name} is {value}; give a whole number from 0 to 2**63 - 1")

    @property
    def id(self) -> str:
        """Permanent id of the image: blake2b-128 of `canonical()`, 32 hexadecimal digits."""
        return id_of(_SORTED_VALUES(self))

    def canonical(self) -> bytes:
        """Canonical form: JSON of the fields that differ from their defaults, sorted by name, ASCII, no spaces.

        Fields at their default are left out, so a field added later does not change the ids of the images made before.
        """
        return _canonical(_SORTED_VALUES(self))

    def as_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary, in the order of the class."""
        return {name: getattr(self, name) for name in _TYPES}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The recipe in a row of the table; columns that are not recipe fields are ignored."""
        return cls(**{name: values[name] for name in _TYPES if name in values})


_TYPES: dict[str, type] = {f.name: f.type for f in fields(Recipe)}  # type: ignore[misc]
_DEFAULTS: dict[str, Any] = {
    f.name: f.default for f in fields(Recipe) if f.name not in {"source", "dataset", "class_index", "class_name"}
}
_VALUES = attrgetter(*_TYPES)
_KINDS = [*_TYPES.values()]
_WHOLE = itemgetter(*(place for place, kind in enumerate(_KINDS) if kind is int))
_FRACTIONS = itemgetter(*(place for place, kind in enumerate(_KINDS) if kind is float))
SORTED_FIELDS = sorted(_TYPES)
"""Names of the fields in the order of `canonical()`."""
_SORTED_VALUES = attrgetter(*SORTED_FIELDS)
_SORTED_DEFAULTS = [_DEFAULTS.get(name) for name in SORTED_FIELDS]
_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def id_of(values: Sequence[Any]) -> str:
    """The id of a recipe by its fields in the order of `SORTED_FIELDS`, which are not checked."""
    return blake2b(_canonical(values), digest_size=16, person=_PERSON).hexdigest()


def _canonical(values: Sequence[Any]) -> bytes:
    found = zip(SORTED_FIELDS, values, _SORTED_DEFAULTS, strict=True)
    return _ENCODE({name: value for name, value, default in found if value != default}).encode("ascii")


def _is_plain(value: float) -> bool:
    """Whether it is finite and not -0.0, which equals 0.0 and must hash alike."""
    return math.isfinite(value) and (value != 0.0 or math.copysign(1.0, value) > 0.0)


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}

RECIPE_SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False)]
    + [pa.field(name, _ARROW[kind], nullable=False) for name, kind in _TYPES.items()]
)
"""Columns that identify an image: the id and the recipe's fields."""

IMAGE_SCHEMA = pa.schema(
    [
        *RECIPE_SCHEMA,
        pa.field("image", pa.large_binary(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("image_height", pa.int32(), nullable=False),
        pa.field("image_width", pa.int32(), nullable=False),
        pa.field("device_seconds", pa.float64(), nullable=False),
        pa.field("usd_compute", pa.float64(), nullable=False),
        pa.field("usd_labels", pa.float64(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("image_format", pa.string()),
    ],
    metadata={"imagefoundry.schema_version": str(SCHEMA_VERSION)},
)
"""One row of the image table, without its embedding columns.

`image`: encoded bytes (WebP, PNG or JPEG). `content_hash`: blake2b-128 of the decoded pixels. `device_seconds`: busy
seconds of the device(s) that made and embedded the image. `usd_compute`: their price. `usd_labels`: price paid to
people for the label. `batch_size`, `dtype`, `device`: with the recipe, they determine the pixels exactly, as long as
`image_format` is lossless. `image_format`: `png`, `webp-90` or the like, format and quality of a generated image; null for
the bytes of a file and in rows of releases without the column. `content_hash` and embeddings are those of the stored pixels.
"""

ERROR_SCHEMA = pa.schema(
    [
        *RECIPE_SCHEMA,
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("device_seconds", pa.float64(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
    ],
    metadata={"imagefoundry.schema_version": str(SCHEMA_VERSION)},
)
"""One recipe that could not be made, and the reason."""


def embedding_column(encoder: str) -> str:
    """Name of the column that holds an encoder's embeddings: `ViT-B-32/openai` → `embedding_vit_b_32_openai`."""
    return "embedding_" + "".join(c if c.isalnum() else "_" for c in encoder.lower()).strip("_")


def image_schema(embeddings: dict[str, int]) -> pa.Schema:
    """`IMAGE_SCHEMA` and a fixed-size float32 column for each encoder → dimension in `embeddings`."""
    schema = IMAGE_SCHEMA
    for encoder, dimension in embeddings.items():
        schema = schema.append(pa.field(embedding_column(encoder), pa.list_(pa.float32(), dimension)))
    return schema
