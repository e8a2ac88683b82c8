"""`/v1/images`: generate, edit, add, look at."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.datastructures import UploadFile as FormFile

from engine.recipe import Recipe
from engine.serving.api.answers import event_stream, images_response
from engine.serving.callers import Caller
from engine.serving.errors import ApiError
from engine.serving.orders import NewObject, Order, Served
from engine.serving.pictures import view
from engine.serving.requests import ImageRequest, describe
from engine.serving.service import Service

MAX_UPLOADS = 20
ImageId = Annotated[str, Path(max_length=64, description="Id of the image, 32 hexadecimal digits.")]
_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": MAX_UPLOADS}


def _multipart(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


_ADD_BODY = _multipart(
    {"name": {"type": "string", "maxLength": 200}, "shared": {"type": "boolean"}, "image": _FILES}, ["name", "image"]
)
_EDIT_BODY = _multipart(
    {
        **ImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")["properties"],
        "image": {"type": "string", "format": "binary"},
    },
    ["prompt", "image"],
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The images, or with `stream` their events.", "content": {"application/json": {}, **_STREAM}}
}


def router(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1/images", tags=["images"])

    @routes.post("/generations", responses=ANSWERS)
    async def generations(
        request: Request, body: ImageRequest, idempotency_key: Annotated[str, Header(max_length=256)] = ""
    ) -> Response:
        """Generates images from a prompt, with a retrieved reference if `retriever` says so."""
        caller = request.state.caller
        order = service.plan(
            caller,
            body,
            request_id=request.state.request_id,
            endpoint="/v1/images/generations",
            idempotency_key=idempotency_key,
        )
        return await _answer(service, request, body, order, "image_generation")

    @routes.post("/edits", responses=ANSWERS, openapi_extra={"requestBody": _EDIT_BODY})
    async def edits(request: Request, idempotency_key: Annotated[str, Header(max_length=256)] = "") -> Response:
        """Generates images after a reference image that the request brings along (`image`), and a prompt."""
        caller: Caller = request.state.caller
        async with request.form(max_files=MAX_UPLOADS, max_fields=100) as form:
            body, uploads = await _edit_form(form)
        if len(uploads) != 1:
            raise ApiError(400, f"{len(uploads)} images were given; give one reference image", param="image")
        _ = service.plan(caller, body, request_id="", endpoint="")  # refuses a bad request before anything is kept
        new = NewObject(caller, request.state.request_id, "", tuple(uploads), "uploads", is_reference_only=True)
        order = service.plan(
            caller,
            body,
            request_id=request.state.request_id,
            endpoint="/v1/images/edits",
            idempotency_key=idempotency_key,
            uploads=await service.add(new),
        )
        return await _answer(service, request, body, order, "image_edit")

    @routes.post("", status_code=201, openapi_extra={"requestBody": _ADD_BODY})
    async def add(request: Request) -> dict[str, Any]:
        """Adds 1 to 20 real images of one object. Retrieval finds them as soon as this answers."""
        async with request.form(max_files=MAX_UPLOADS, max_fields=10) as form:
            name, is_shared, uploads = await _add_form(form)
        caller: Caller = request.state.caller
        new = NewObject(caller, request.state.request_id, name, tuple(uploads), shared=is_shared)
        ids = await service.add(new)
        return {"name": name, "dataset": new.dataset, "data": [{"image_id": one} for one in ids]}

    @routes.get("/{image_id}")
    async def lookup(request: Request, image_id: ImageId) -> dict[str, Any]:
        """The recipe, references, costs and origin of an image."""
        return described(await service.image(request.state.caller, image_id))

    @routes.get("/{image_id}/content", response_class=Response, responses={200: {"content": {"image/*": {}}}})
    async def content(
        request: Request,
        image_id: ImageId,
        format: Literal["png", "webp", "jpeg"] | None = None,
        width: Annotated[int | None, Query(ge=16, le=1024, description="Makes it narrower, in pixels.")] = None,
    ) -> Response:
        """The encoded image itself: the stored bytes, or another format or width."""
        row = await service.image(request.state.caller, image_id, ["image"])
        data, kind = await asyncio.to_thread(view, row["image"], format, width)
        headers = {"cache-control": "private, max-age=86400, immutable"}
        return Response(data, media_type=kind, headers=headers)

    return routes


async def _answer(service: Service, request: Request, body: ImageRequest, order: Order, prefix: str) -> Response:
    headers = await service.admit(order.caller, len(order.recipes))
    if body.stream:
        stream = event_stream(service, order, body, prefix)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers=headers | {"cache-control": "no-store"}
        )
    served = await _while_connected(request, service.generate(order))
    base_url = str(request.base_url).rstrip("/")
    content = await asyncio.to_thread(images_response, service, order, body, served, base_url)
    return JSONResponse(content, headers=headers)


async def _while_connected(request: Request, work: Coroutine[Any, Any, list[Served]]) -> list[Served]:
    """The result of `work`, which is cancelled when the client goes away. Raises ApiError (499) in that case."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client went away", code="cancelled")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _edit_form(form: FormData) -> tuple[ImageRequest, list[bytes]]:
    """The fields and images of a multipart request. Raises ApiError (400)."""
    values: dict[str, Any] = {}
    uploads = []
    for name, value in form.multi_items():
        if isinstance(value, FormFile):
            if name not in ("image", "image[]"):
                raise ApiError(400, f"{name} is not supported; leave it out", code="unsupported", param=name)
            uploads.append(await value.read())
        elif name in ("filter", "references"):
            try:
                values[name] = json.loads(value)
            except ValueError:
                raise ApiError(400, f"{name} is not valid JSON", code="invalid_value", param=name) from None
        elif name in values:
            raise ApiError(400, f"{name} was given twice; give it once", code="invalid_value", param=name)
        else:
            values[name] = value
    try:
        return ImageRequest.model_validate(values), uploads
    except ValidationError as error:
        param, message = describe(error.errors()[0])
        raise ApiError(400, message, code="invalid_value", param=param) from None


async def _add_form(form: FormData) -> tuple[str, bool, list[bytes]]:
    """Name, whether it is shared, and images of a multipart request. Raises ApiError (400)."""
    uploads, values = [], {"name": "", "shared": "false"}
    for field, value in form.multi_items():
        if isinstance(value, FormFile) and field in ("image", "image[]"):
            uploads.append(await value.read())
        elif isinstance(value, str) and field in values:
            values[field] = value.strip()
        else:
            raise ApiError(400, f"{field} is not supported; leave it out", code="unsupported", param=field)
    if not 0 < len(values["name"]) <= 200:
        raise ApiError(400, "name is missing or longer than 200 characters; say what the images show", param="name")
    if values["shared"].lower() not in ("true", "false"):
        raise ApiError(400, "shared is neither true nor false", param="shared")
    if not uploads:
        raise ApiError(400, "image is missing; give 1 to 20 files", param="image")
    return values["name"], values["shared"].lower() == "true", uploads


def described(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the table as JSON: the recipe apart from the rest."""
    recipe = Recipe.from_dict(row)
    names = set(recipe.as_dict())
    rest = {name: value for name, value in row.items() if name not in names and name != "owner"}
    references = [recipe.reference_id] if recipe.reference_id else []
    return {**rest, "usd": row["usd_compute"] + row["usd_labels"], "references": references, "recipe": recipe.as_dict()}
