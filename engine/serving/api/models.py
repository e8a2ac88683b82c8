"""`/v1/models`, `/v1/retrieve`, `/v1/retrievers`."""

import base64
import binascii
from typing import Any

from fastapi import APIRouter, Request

from engine.models.generators import adapter_of
from engine.models.spec import GeneratorSpec
from engine.serving.errors import ApiError
from engine.serving.orders import Search
from engine.serving.requests import RetrieveRequest
from engine.serving.service import Service

CREATED = 0
"""OpenAI's `created` of a model; a registry entry has no such time."""


def router(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """The generators of this server, the default first."""
        return {"object": "list", "data": [_model(spec) for spec in service.specs]}

    @routes.get("/models/{name:path}", tags=["models"])
    async def model(name: str) -> dict[str, Any]:
        """One generator and what it supports."""
        for spec in service.specs:
            if spec.name == name:
                return _model(spec)
        raise ApiError(404, f"there is no model {name[:100]!r}", code="model_not_found", param="model")

    @routes.get("/retrievers", tags=["retrieval"])
    def retrievers() -> dict[str, Any]:
        """The names that the field `retriever` takes."""
        return {"object": "list", "data": [{"id": name, "object": "retriever"} for name in service.retrievers()]}

    @routes.post("/retrieve", tags=["retrieval"])
    async def retrieve(request: Request, body: RetrieveRequest) -> dict[str, Any]:
        """The images of the table that are nearest to a text or an image."""
        given = [one for one in (body.text, body.image, body.image_id) if one is not None]
        if len(given) != 1:
            raise ApiError(400, "give either a text, an image or an image_id", param="text")
        try:
            image = base64.b64decode(body.image or "", validate=True)
        except binascii.Error:
            raise ApiError(400, "image is not base64", code="invalid_value", param="image") from None
        if body.image is not None and not image:
            raise ApiError(400, "image is empty", code="invalid_value", param="image")
        hits = await service.search(
            Search(
                request.state.caller,
                text=body.text or "",
                image=image,
                image_id=body.image_id or "",
                retriever=body.retriever,
                k=body.k,
                datasets=tuple(body.filter.datasets),
                class_names=tuple(body.filter.class_names),
                sources=tuple(body.filter.sources),
            )
        )
        data = [
            {"image_id": hit.id, "distance": hit.distance} | {k: v for k, v in hit.row.items() if k != "id"}
            for hit in hits
        ]
        return {"object": "list", "data": data}

    return routes


def _model(spec: GeneratorSpec) -> dict[str, Any]:
    return {
        "id": spec.name,
        "object": "model",
        "created": CREATED,
        "owned_by": "imagefoundry",
        "pipeline": spec.pipeline,
        "revision": spec.recipe_revision(),
        "licence": spec.licence,
        "size": f"{spec.width}x{spec.height}",
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "reference_modes": dict(spec.reference_modes),
        "needs_reference": adapter_of(spec.pipeline).needs_reference,
    }
