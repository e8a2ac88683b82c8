"""What passes between the processes of a server: plain values that can be pickled."""

from dataclasses import dataclass, field
from typing import Any, Literal

from engine.recipe import Recipe
from engine.serving.callers import Caller


@dataclass(frozen=True)
class References:
    """Where the reference images of an order come from."""

    retriever: str = "none"
    """`none`, `zero`, or a trained head by name or label."""
    k: int = 1
    ids: tuple[str, ...] = ()
    """Ids, instead of a retriever."""
    mode: str = ""
    scale: float | None = None
    datasets: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("original",)


@dataclass(frozen=True)
class Order:
    """Images that one request asks of one generator."""

    caller: Caller
    request_id: str
    endpoint: str
    """Path of the request."""
    recipes: tuple[Recipe, ...]
    """One per image, without its reference, which the retriever finds."""
    references: References = References()
    deadline_seconds: float = 300.0
    num_previews: int = 0
    """Previews per image."""
    shared: bool = False
    end_user: str = ""


@dataclass(frozen=True)
class Served:
    """One image of an answer."""

    recipe: Recipe
    image: bytes
    """Encoded without loss (PNG)."""
    is_new: bool
    """Whether it was made for this request; otherwise the table had it."""
    usd: float
    """What this request pays: 0 if the table had it."""
    device_seconds: float
    wait_seconds: float
    batch_size: int
    dtype: str
    device: str


@dataclass(frozen=True)
class Event:
    """One step of an order."""

    kind: Literal["queued", "started", "preview", "completed", "failed"]
    number: int = 0
    """Image of the order."""
    position: int = 0
    """Images ahead in the queue (`queued`)."""
    eta_seconds: float = 0.0
    """Estimated time until the image is there (`queued`)."""
    preview: bytes = b""
    """PNG (`preview`)."""
    preview_index: int = 0
    image: Served | None = None
    """`completed`."""
    error: Exception | None = None
    """`failed`."""


@dataclass(frozen=True)
class Search:
    """A question to the table: a text, or an image."""

    caller: Caller
    text: str = ""
    image: bytes = b""
    image_id: str = ""
    retriever: str = "zero"
    k: int = 10
    datasets: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("original",)


@dataclass(frozen=True)
class NewObject:
    """Real images that a caller adds to the table."""

    caller: Caller
    request_id: str
    name: str
    """Class of the images, such as the name of a product."""
    images: tuple[bytes, ...]
    dataset: str = "added"
    shared: bool = False
    is_reference_only: bool = False
    """Whether the images only serve as references by their ids; they get no embedding, so that no search finds them."""


@dataclass
class Hit:
    """An image that was found."""

    id: str
    distance: float
    """Cosine distance, 0 to 2."""
    row: dict[str, Any] = field(default_factory=dict)
    """`source`, `dataset`, `class_name`, `prompt`."""
