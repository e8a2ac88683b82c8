"""Answers in OpenAI's form: images as base64 or addresses, events of a stream, errors."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from engine.serving.errors import ApiError
from engine.serving.orders import Event, Order, Served
from engine.serving.pictures import in_format
from engine.serving.requests import ImageRequest
from engine.serving.service import Service
from engine.serving.signatures import signed_path

URL_SECONDS = 3600
"""Time for which the address of an image works without a key."""


def images_response(
    service: Service, order: Order, request: ImageRequest, served: Sequence[Served], base_url: str
) -> dict[str, Any]:
    """The body of an answer with images; fields beyond OpenAI's are ours."""
    data = []
    for one in served:
        entry: dict[str, Any] = facts(one)
        if request.response_format == "url":
            expires = int(time.time()) + URL_SECONDS
            path = signed_path(one.recipe.id, order.caller.key_id, expires, service.secret)
            entry["url"] = f"{base_url}{path}&format={request.output_format or 'png'}"
        else:
            entry["b64_json"] = encoded(one.image, request)
        data.append(entry)
    return {
        "created": int(time.time()),
        "data": data,
        **shape(order, request),
        "usage": usage(len(served)),
        "usd": sum(one.usd for one in served),
    }


def facts(served: Served) -> dict[str, Any]:
    """What an answer says about an image besides its pixels."""
    recipe = served.recipe
    return {
        "image_id": recipe.id,
        "seed": recipe.seed,
        "references": [recipe.reference_id] if recipe.reference_id else [],
        "is_new": served.is_new,
        "usd": served.usd,
        "device_seconds": served.device_seconds,
        "wait_seconds": served.wait_seconds,
        "batch_size": served.batch_size,
        "dtype": served.dtype,
        "recipe": recipe.as_dict(),
    }


def shape(order: Order, request: ImageRequest) -> dict[str, Any]:
    """The fields of OpenAI's answers that repeat the request."""
    first = order.recipes[0]
    return {
        "background": "opaque",
        "output_format": request.output_format or "png",
        "quality": request.quality or "auto",
        "size": f"{first.width}x{first.height}",
    }


def usage(images: int) -> dict[str, Any]:
    """OpenAI's token counts. Images are not priced by tokens here, so all are 0; `usd` is the price."""
    return {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "num_images": images,
    }


def encoded(image: bytes, request: ImageRequest) -> str:
    """The image in the requested format, as base64."""
    kind = request.output_format or "png"
    return base64.b64encode(in_format(image, kind, request.output_compression)).decode()


async def event_stream(service: Service, order: Order, request: ImageRequest, prefix: str) -> AsyncIterator[bytes]:
    """Server-sent events of an order; `prefix` is `image_generation` or `image_edit`. Ends with `[DONE]`.

    Queue positions are comments, and events of their own if the request asks for them.
    """
    async for event in service.stream(order):
        if event.kind in ("queued", "started"):
            yield _queue_event(event, request)
        elif event.kind == "preview":
            picture = await asyncio.to_thread(encoded, event.preview, request)
            yield _sse(f"{prefix}.partial_image", _partial(order, request, event, picture))
        elif event.kind == "completed":
            assert event.image is not None
            picture = await asyncio.to_thread(encoded, event.image.image, request)
            body = {"b64_json": picture, "created_at": int(time.time()), **shape(order, request), "usage": usage(1)}
            yield _sse(f"{prefix}.completed", body | {"index": event.number} | facts(event.image))
        else:
            error = event.error if isinstance(event.error, ApiError) else ApiError(500, "the server failed")
            yield _sse("error", error.body(), typed=False)
    yield b"data: [DONE]\n\n"


def _partial(order: Order, request: ImageRequest, event: Event, picture: str) -> dict[str, Any]:
    return {
        "b64_json": picture,
        "created_at": int(time.time()),
        "partial_image_index": event.preview_index,
        "index": event.number,
        **shape(order, request),
    }


def _queue_event(event: Event, request: ImageRequest) -> bytes:
    if not request.queue_events:
        return f": {event.kind} {event.position}\n\n".encode()
    body = {"index": event.number}
    if event.kind == "queued":
        body |= {"position": event.position, "eta_seconds": round(event.eta_seconds, 2)}  # type: ignore[dict-item]
    return _sse(f"imagefoundry.{event.kind}", body)


def _sse(name: str, body: dict[str, Any], typed: bool = True) -> bytes:
    content = {"type": name, **body} if typed else body
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
