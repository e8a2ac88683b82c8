"""From a request of the API to the recipes of its images; what is not supported is refused by name."""

import json
import re
from collections.abc import Sequence
from hashlib import blake2b

from engine.models.generators import adapter_of
from engine.models.spec import GeneratorSpec
from engine.names import unknown_name
from engine.recipe import Recipe
from engine.serving.callers import Caller
from engine.serving.config import ServeConfig
from engine.serving.errors import ApiError
from engine.serving.orders import Order, References
from engine.serving.requests import ImageRequest

DATASET = "served"
"""Data set of generated images that were made for a request."""


def plan_order(
    caller: Caller,
    request: ImageRequest,
    specs: Sequence[GeneratorSpec],
    config: ServeConfig,
    *,
    request_id: str,
    endpoint: str,
    idempotency_key: str = "",
    uploads: Sequence[str] = (),
) -> Order:
    """The order of a request.

    Without a seed, the seeds follow from the caller's key and the body, or from `idempotency_key`, so that a request
    that is sent again asks for the same images.

    Args:
        specs: the server's generators, the default first.
        idempotency_key: the client's own name of the request.
        uploads: ids of reference images that the request brought along.

    Raises:
        ApiError: 400 with the field that is wrong.
    """
    spec = _generator(request, specs)
    _check_unsupported(request)
    width, height = _size(request, spec, config)
    steps = spec.num_inference_steps if request.num_inference_steps is None else request.num_inference_steps
    if steps > config.max_steps:
        raise _bad(
            "num_inference_steps", f"{steps} steps are more than this server's {config.max_steps}; ask for fewer"
        )
    for name in ("prompt", "negative_prompt"):
        if len(getattr(request, name)) > config.max_prompt_chars:
            raise _bad(name, f"{name} is longer than {config.max_prompt_chars} characters; shorten it")
    if not request.prompt.strip():
        raise _bad("prompt", "the prompt is empty; say what the image should show")
    references = _references(request, spec, uploads)
    guidance = spec.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if request.negative_prompt and request.guidance_scale is None and spec.negative_guidance_scale:
        guidance = spec.negative_guidance_scale
    first = _first_seed(caller, request, idempotency_key) if request.seed is None else request.seed
    recipes = tuple(
        Recipe(
            source="generative",
            dataset=DATASET,
            class_index=0,
            class_name="",
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            generator=spec.name,
            revision=spec.recipe_revision(),
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=height,
            width=width,
            seed=(first + number) % 2**63,
        )
        for number in range(request.n)
    )
    return Order(
        caller=caller,
        request_id=request_id,
        endpoint=endpoint,
        recipes=recipes,
        references=references,
        deadline_seconds=config.deadline_seconds,
        num_previews=request.partial_images if request.stream else 0,
        shared=request.shared,
        end_user=request.safety_identifier or request.user or "",
    )


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param=param)


def _generator(request: ImageRequest, specs: Sequence[GeneratorSpec]) -> GeneratorSpec:
    if request.model is None:
        return specs[0]
    for spec in specs:
        if spec.name == request.model:
            return spec
    message = unknown_name("model", request.model, [spec.name for spec in specs], "GET /v1/models lists all")
    raise ApiError(400, message, code="model_not_found", param="model")


def _check_unsupported(request: ImageRequest) -> None:
    allowed = {"quality": ("auto", "standard"), "background": ("auto", "opaque"), "moderation": ("auto", "low")}
    for name, values in allowed.items():
        if (value := getattr(request, name)) is not None and value not in values:
            raise _bad(name, f"{name} {value!r} is not supported; give {' or '.join(values)}, or leave it out")
    if request.output_compression is not None and request.output_format in (None, "png"):
        raise _bad("output_compression", "png has no compression level; set output_format to webp or jpeg")
    if request.partial_images and not request.stream:
        raise _bad("partial_images", "partial_images are part of a stream; set stream to true")
    if request.queue_events and not request.stream:
        raise _bad("queue_events", "queue_events are part of a stream; set stream to true")
    if request.stream and request.response_format == "url":
        raise _bad("response_format", "a stream carries images as b64_json; leave response_format out")


def _size(request: ImageRequest, spec: GeneratorSpec, config: ServeConfig) -> tuple[int, int]:
    if request.size in (None, "auto"):
        return spec.width, spec.height
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", request.size or "")
    if not match:
        raise _bad(
            "size", f"size {request.size!r} is not WIDTHxHEIGHT; give one as {spec.width}x{spec.height}, or auto"
        )
    width, height = int(match[1]), int(match[2])
    if not width or not height or width * height > config.max_megapixels * 1e6:
        raise _bad(
            "size", f"size {request.size} has not between 1 and {config.max_megapixels} million pixels; choose another"
        )
    return width, height


def _references(request: ImageRequest, spec: GeneratorSpec, uploads: Sequence[str]) -> References:
    given = [bool(uploads), bool(request.references), request.retriever != "none"]
    if sum(given) > 1:
        raise _bad("references", "images, references and a retriever exclude one another; give one of them")
    if not any(given):
        for name in ("reference_mode", "reference_scale"):
            if getattr(request, name) not in ("", None):
                raise _bad(name, f"{name} requires a reference; give references, or a retriever")
        if adapter_of(spec.pipeline).needs_reference:
            raise _bad("references", f"model {spec.name} requires a reference; give references, or a retriever")
        return References()
    try:
        spec.check_reference_mode(request.reference_mode or spec.reference_mode)
    except ValueError as error:
        raise _bad("reference_mode" if request.reference_mode else "model", str(error)) from error
    return References(
        retriever=request.retriever,
        k=request.k,
        ids=tuple(uploads) or tuple(request.references),
        mode=request.reference_mode,
        scale=request.reference_scale,
        datasets=tuple(request.filter.datasets),
        class_names=tuple(request.filter.class_names),
        sources=tuple(request.filter.sources),
    )


_NOT_OF_THE_IMAGE = {
    *("stream", "partial_images", "queue_events", "output_format", "output_compression", "response_format"),
    *("user", "safety_identifier", "shared", "n"),
}
"""Fields that change the answer and not the image, so that they do not change a derived seed."""


def _first_seed(caller: Caller, request: ImageRequest, idempotency_key: str) -> int:
    body = request.model_dump(exclude=_NOT_OF_THE_IMAGE, exclude_defaults=True)
    named = ["idempotency key", idempotency_key] if idempotency_key else ["body", body]
    text = json.dumps([caller.key_id, *named], sort_keys=True)
    digest = blake2b(text.encode(), digest_size=8, person=b"served seed").digest()
    return int.from_bytes(digest, "big") >> 1
