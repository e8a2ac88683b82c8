"""Thumbnails: small pictures are part of the page, others have an address."""

from typing import Any

from engine.reports.page import data_uri
from engine.serving.service import Service

INLINE_PIXELS = 64 * 64
"""Pictures of up to so many pixels are sent with the page: sixty of them are read at once."""
COLUMNS = ("class_name", "prompt", "source", "image_height", "image_width")
"""Columns of `images` that captions and thumbnails need."""
WIDTH = 160
"""Width of a thumbnail in pixels."""


def inline_pictures(service: Service, rows: list[dict[str, Any]]) -> None:
    """Sets `picture` of each row to the address of its thumbnail."""
    small = [row["id"] for row in rows if row["image_height"] * row["image_width"] <= INLINE_PIXELS]
    found = service.workspace.fetch(small, ["image"]).to_pylist() if small else []
    uris = {row["id"]: data_uri(row["image"]) for row in found}
    for row in rows:
        row["picture"] = uris.get(row["id"]) or content_address(row["id"])


def content_address(image_id: str, width: int | None = WIDTH) -> str:
    """Address of an image's bytes, scaled down to `width`, or as they are."""
    return f"/v1/images/{image_id}/content" + (f"?width={width}" if width else "")


def caption(row: dict[str, Any]) -> str:
    """A short name of an image: its class, or its prompt."""
    return str(row["class_name"] or row["prompt"] or row["source"])
