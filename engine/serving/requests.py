"""Bodies of the API's requests: OpenAI's fields, ours as further fields, and nothing unknown."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_K = 100


class Filter(BaseModel):
    """Which images of the table may be found; each list names what is allowed, an empty one allows everything."""

    model_config = ConfigDict(extra="forbid")

    datasets: list[str] = Field(default=[], max_length=100, description="Data sets, by name.")
    class_names: list[str] = Field(default=[], max_length=100, description="Classes, by name.")
    sources: list[Literal["original", "retrieval", "generative"]] = Field(
        default=["original"], max_length=3, description="Kinds of images."
    )


class ImageRequest(BaseModel):
    """What `POST /v1/images/generations` and `/v1/images/edits` take. Fields that are not supported are refused by name."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, description="What the image should show.")
    model: str | None = Field(default=None, max_length=200, description="Generator; the server's first if not given.")
    n: int = Field(default=1, ge=1, le=10, description="Number of images.")
    size: str | None = Field(default=None, max_length=20, description="WIDTHxHEIGHT in pixels, or auto.")
    quality: str | None = Field(
        default=None, max_length=20, description="auto or standard; num_inference_steps decides."
    )
    output_format: Literal["png", "webp", "jpeg"] | None = Field(default=None, description="png if not given.")
    output_compression: int | None = Field(default=None, ge=0, le=100, description="Quality of webp and jpeg.")
    response_format: Literal["b64_json", "url"] | None = Field(default=None, description="b64_json if not given.")
    background: str | None = Field(default=None, max_length=20, description="auto or opaque.")
    moderation: str | None = Field(default=None, max_length=20, description="auto or low; prompts are not filtered.")
    safety_identifier: str | None = Field(
        default=None, max_length=200, description="Your own id of your user; kept in the table."
    )
    user: str | None = Field(default=None, max_length=200, description="The same under its older name.")
    stream: bool = Field(default=False, description="Answer with server-sent events.")
    partial_images: int = Field(default=0, ge=0, le=3, description="Previews per image in a stream.")

    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Seed of the first image; the next have seed + 1, …"
    )
    num_inference_steps: int | None = Field(default=None, ge=1, description="Sampler steps.")
    guidance_scale: float | None = Field(default=None, ge=0, le=100, description="Classifier-free guidance scale.")
    negative_prompt: str = Field(default="", description="What the image should not show.")
    retriever: str = Field(
        default="none", max_length=300, description="none, zero (plain CLIP), or a trained head by name or label."
    )
    k: int = Field(default=1, ge=1, le=MAX_K, description="Nearest images to take references from, in turn.")
    references: list[str] = Field(
        default=[], max_length=10, description="Ids of reference images, used in turn instead of a retriever."
    )
    filter: Filter = Field(default=Filter(), description="Images that may be references.")
    reference_mode: str = Field(
        default="", max_length=40, description="How a reference enters; the generator's own choice if empty."
    )
    reference_scale: float | None = Field(default=None, ge=0, le=10, description="Strength of the reference.")
    shared: bool = Field(default=False, description="Whether other keys may see the images.")
    queue_events: bool = Field(
        default=False, description="Also stream imagefoundry.queued and imagefoundry.started events."
    )


class RetrieveRequest(BaseModel):
    """What `POST /v1/retrieve` takes: a text or an image."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, min_length=1, description="What to look for.")
    image: str | None = Field(default=None, description="An encoded image as base64, to look for similar ones.")
    image_id: str | None = Field(
        default=None, max_length=64, description="Id of an image of the table, to look for similar ones."
    )
    retriever: str = Field(
        default="zero", max_length=300, description="zero (plain CLIP), or a trained head by name or label."
    )
    k: int = Field(default=10, ge=1, le=MAX_K, description="Number of images.")
    filter: Filter = Field(default=Filter())


def describe(error: dict[str, Any]) -> tuple[str, str]:
    """(param, sentence) of one of pydantic's errors."""
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place)
    if error["type"] == "extra_forbidden":
        return param, f"{param} is not supported; leave it out"
    if error["type"] == "missing":
        return param, f"{param} is missing; give it"
    if error["type"] == "json_invalid":
        return "", "the body is not valid JSON; send an object"
    return param, f"{param or 'the request'} is invalid ({error['msg'][0].lower()}{error['msg'][1:]})"
