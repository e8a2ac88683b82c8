"""The server through the client that people have: `openai`."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from engine.images import decode_image, encode_png
from engine.models import load_generator
from engine.recipe import Recipe
from engine.testing.data import class_image
from tests.serving.local import ANNS, BOBS, Running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=ANNS, max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def other(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=BOBS, max_retries=0) as found:
        yield found


def pixels_of(entry: Any) -> np.ndarray:
    return decode_image(base64.b64decode(entry.b64_json))


def seeded(seed: int, **more: Any) -> dict[str, Any]:
    return {"extra_body": {"seed": seed, **more}}


def test_an_image_is_the_engines_own_bit_for_bit(client: openai.OpenAI, server: Running, tiny_pipeline: str):
    answer = client.images.generate(prompt="a red apple", **seeded(7))
    entry = answer.data[0]
    recipe = Recipe(**entry.model_extra["recipe"])
    assert (recipe.prompt, recipe.seed, recipe.id) == ("a red apple", 7, entry.model_extra["image_id"])
    engine = load_generator(tiny_pipeline, batch_size=entry.model_extra["batch_size"])
    assert np.array_equal(pixels_of(entry), engine.generate([recipe])[0].permute(1, 2, 0).numpy())
    assert answer.size == f"{recipe.width}x{recipe.height}"
    assert (answer.output_format, answer.background, answer.quality) == ("png", "opaque", "auto")
    assert answer.usage.total_tokens == 0
    assert answer.model_extra["usd"] == entry.model_extra["usd"] > 0


def test_the_same_recipe_comes_from_the_table_for_nothing(client: openai.OpenAI, server: Running):
    first = client.images.generate(prompt="a boat", **seeded(1)).data[0]
    made = server.replica.queue.counts.images
    again = client.images.generate(prompt="a boat", **seeded(1)).data[0]
    assert server.replica.queue.counts.images == made
    assert again.b64_json == first.b64_json
    assert (again.model_extra["is_new"], again.model_extra["usd"]) == (False, 0.0)
    rows = server.parts.service.workspace.read("requests", f"image_id = '{first.model_extra['image_id']}'").to_pylist()
    assert [(row["key_id"], row["is_new"], row["usd"] > 0) for row in rows] == [
        ("ann", True, True),
        ("ann", False, False),
    ]


def test_without_a_seed_the_same_request_is_the_same_image(client: openai.OpenAI, other: openai.OpenAI):
    """A retry must not generate twice; another key, another body or another idempotency key asks for another image."""

    def image_id(who: openai.OpenAI, **arguments: Any) -> str:
        return who.images.generate(prompt="a tree", **arguments).data[0].model_extra["image_id"]

    first = image_id(client)
    assert image_id(client, user="someone", output_format="webp") == first
    assert len({first, image_id(other), image_id(client, extra_headers={"Idempotency-Key": "a"})}) == 3
    assert image_id(client, extra_headers={"Idempotency-Key": "a"}) != first
    assert image_id(client, extra_body={"num_inference_steps": 3}) != first


def test_several_images_have_seeds_in_a_row(client: openai.OpenAI):
    answer = client.images.generate(prompt="a cat", n=3, **seeded(2**63 - 2))
    assert [one.model_extra["seed"] for one in answer.data] == [2**63 - 2, 2**63 - 1, 0]
    assert len({one.b64_json for one in answer.data}) == 3


@pytest.mark.parametrize(("kind", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_formats(client: openai.OpenAI, kind: Any, name: str):
    more = {} if kind == "png" else {"output_compression": 20}
    entry = client.images.generate(prompt="a red apple", output_format=kind, **more, **seeded(7)).data[0]
    with Image.open(io.BytesIO(base64.b64decode(entry.b64_json))) as image:
        assert image.format == name


def test_a_url_needs_no_key_and_serves_the_bytes(client: openai.OpenAI):
    import httpx

    entry = client.images.generate(prompt="a red apple", response_format="url", **seeded(7)).data[0]
    assert entry.b64_json is None
    found = httpx.get(entry.url)
    assert found.status_code == 200
    assert found.headers["content-type"] == "image/png"
    assert decode_image(found.content).shape == (16, 16, 3)
    assert httpx.get(entry.url.replace("signature=", "signature=A")).status_code in (401, 403)


def test_a_stream_shows_previews_and_completes(client: openai.OpenAI):
    events = list(
        client.images.generate(prompt="a sun", stream=True, partial_images=2, **seeded(3, num_inference_steps=6))
    )
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert decode_image(base64.b64decode(events[0].b64_json)).shape == (16, 16, 3)
    plain = client.images.generate(prompt="a sun", **seeded(3, num_inference_steps=6)).data[0]
    assert events[-1].b64_json == plain.b64_json
    assert (events[-1].size, events[-1].output_format, events[-1].usage.total_tokens) == ("16x16", "png", 0)


def test_a_stream_of_what_the_table_has_is_completed_alone(client: openai.OpenAI):
    client.images.generate(prompt="a star", **seeded(3))
    events = list(client.images.generate(prompt="a star", stream=True, partial_images=3, **seeded(3)))
    assert [event.type for event in events] == ["image_generation.completed"]


def test_queue_events_come_when_asked_for(client: openai.OpenAI):
    stream = client.images.generate(prompt="a moon", stream=True, **seeded(4, queue_events=True))
    events = [(event.type, event.model_extra) for event in stream]
    assert [kind for kind, _ in events] == [
        "imagefoundry.queued",
        "imagefoundry.started",
        "image_generation.completed",
    ]
    assert events[0][1]["position"] == 0


def test_an_edit_uses_the_image_it_brings(client: openai.OpenAI, server: Running, other: openai.OpenAI):
    reference = encode_png(class_image(1, 3))
    answer = client.images.edit(image=reference, prompt="a green tree", extra_body={"seed": 5})
    recipe = answer.data[0].model_extra["recipe"]
    assert recipe["reference_mode"] == "img2img"
    assert answer.data[0].model_extra["references"] == [recipe["reference_id"]]
    events = list(client.images.edit(image=[reference], prompt="a green tree", stream=True, extra_body={"seed": "5"}))
    assert [event.type for event in events] == ["image_edit.completed"]
    assert events[0].b64_json == answer.data[0].b64_json
    with pytest.raises(openai.BadRequestError, match="there is no image"):
        other.images.generate(prompt="a tree", **seeded(1, references=[recipe["reference_id"]]))


REFUSED = [
    ({"size": "17x16"}, "size"),
    ({"size": "16"}, "size"),
    ({"size": "99999x99999"}, "size"),
    ({"quality": "hd"}, "quality"),
    ({"style": "vivid"}, "style"),
    ({"background": "transparent"}, "background"),
    ({"moderation": "strict"}, "moderation"),
    ({"output_compression": 3}, "output_compression"),
    ({"partial_images": 2}, "partial_images"),
    ({"n": 11}, "n"),
    ({"n": 0}, "n"),
    ({"model": "nothing"}, "model"),
    ({"prompt": "  "}, "prompt"),
    ({"prompt": "x" * 5000}, "prompt"),
    ({"prompt": "a cat and " * 60}, "prompt"),
    ({"extra_body": {"seed": -1}}, "seed"),
    ({"extra_body": {"num_inference_steps": 1000}}, "num_inference_steps"),
    ({"extra_body": {"retriever": "nobody"}}, "retriever"),
    ({"extra_body": {"references": ["nothing"]}}, "references"),
    ({"extra_body": {"reference_scale": 1}}, "reference_scale"),
    ({"extra_body": {"retriever": "zero", "references": ["a"]}}, "references"),
    ({"extra_body": {"filter": {"colour": "red"}}}, "filter.colour"),
    ({"extra_body": {"mask": "x"}}, "mask"),
    ({"stream": True, "response_format": "url"}, "response_format"),
]


@pytest.mark.parametrize(("arguments", "param"), REFUSED, ids=lambda one: str(one)[:40])
def test_what_is_not_supported_is_refused_by_name(client: openai.OpenAI, arguments: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"prompt": "a cat", **arguments})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    assert "\n" not in caught.value.body["message"]


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"image": [b"x", b"y"]}, "image"),
        ({"image": b"not an image"}, "image"),
        ({"image": b"x", "mask": b"y"}, "mask"),
        ({"image": b"x", "input_fidelity": "high"}, "input_fidelity"),
    ],
)
def test_edits_that_are_not_supported(client: openai.OpenAI, arguments: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(prompt="a cat", **arguments)
    assert caught.value.param == param


def test_errors_have_the_clients_classes(client: openai.OpenAI, other: openai.OpenAI, server: Running):
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="if-wrong").images.generate(prompt="a cat")
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        client.get("/images/nothing", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.get("/nothing", cast_to=object)
    with pytest.raises(openai.APIStatusError) as caught_large:
        client.images.edit(image=bytes(33_000_000), prompt="a cat")
    assert caught_large.value.status_code == 413


def test_one_key_does_not_see_anothers_images(client: openai.OpenAI, other: openai.OpenAI):
    mine = client.images.generate(prompt="a secret", **seeded(1)).data[0].model_extra["image_id"]
    shared = client.images.generate(prompt="no secret", **seeded(1, shared=True)).data[0].model_extra["image_id"]
    for path in (f"/images/{mine}", f"/images/{mine}/content"):
        with pytest.raises(openai.NotFoundError):
            other.get(path, cast_to=object)
    assert other.get(f"/images/{shared}", cast_to=dict)["recipe"]["prompt"] == "no secret"
    assert client.get(f"/images/{mine}", cast_to=dict)["recipe"]["prompt"] == "a secret"
    again = other.images.generate(prompt="a secret", **seeded(1)).data[0]  # who names the whole recipe knows the image
    assert (again.model_extra["image_id"], again.model_extra["is_new"]) == (mine, False)
    assert other.get(f"/images/{mine}", cast_to=dict)["recipe"]["prompt"] == "a secret"


def test_models(client: openai.OpenAI, server: Running):
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).owned_by == "imagefoundry"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_an_added_object_is_found_at_once_and_used(client: openai.OpenAI, other: openai.OpenAI, server: Running):
    files = [("image", ("one.png", encode_png(class_image(2, number)))) for number in range(2)]
    added = client.post(
        "/images",
        cast_to=dict,
        body={"name": "zorp"},
        files=files,
        options={"headers": {"Content-Type": "multipart/form-data"}},
    )
    ids = [one["image_id"] for one in added["data"]]
    assert len(ids) == 2
    found = client.post("/retrieve", cast_to=dict, body={"text": "a zorp", "filter": {"class_names": ["zorp"]}})
    assert {hit["image_id"] for hit in found["data"]} == set(ids)
    assert {hit["class_name"] for hit in found["data"]} == {"zorp"}
    assert (
        other.post("/retrieve", cast_to=dict, body={"text": "a zorp", "filter": {"class_names": ["zorp"]}})["data"]
        == []
    )
    answer = client.images.generate(
        prompt="a photo of a zorp", n=2, **seeded(1, retriever="zero", k=2, filter={"class_names": ["zorp"]})
    )
    assert {one.model_extra["references"][0] for one in answer.data} == set(ids)
    similar = client.post("/retrieve", cast_to=dict, body={"image_id": ids[0], "k": 1})
    assert similar["data"][0]["image_id"] == ids[0]
    picture = base64.b64encode(encode_png(class_image(2, 0))).decode()
    assert client.post("/retrieve", cast_to=dict, body={"image": picture, "k": 1})["data"][0]["image_id"] == ids[0]


def test_a_client_that_gives_up_frees_the_device(client: openai.OpenAI, server: Running):
    """The sampling ends between two steps: far fewer than the 150 that were asked for."""
    before = server.replica.queue.counts.cancelled
    steps = []
    generator = server.replica._generator
    real = generator._sample_batch

    def watched(recipes: Any, references: Any, on_step: Any = None) -> Any:
        def step(number: int, latents: Any) -> None:
            steps.append(number)
            hold.wait(5)
            on_step(number, latents)

        return real(recipes, references, step)

    hold = threading.Event()
    generator._sample_batch = watched
    try:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).images.generate(prompt="a long wait", **seeded(1, num_inference_steps=150))
        until(lambda: all(one.job.is_cancelled for one in server.replica._making.values()))
        hold.set()
        until(lambda: server.replica.queue.counts.cancelled == before + 1)
    finally:
        generator._sample_batch = real
    assert len(steps) < 150


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(client: openai.OpenAI, server: Running):
    held = server.replica._num_inside
    server.replica._num_inside = 10_000
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt="a cat", **seeded(77))
    finally:
        server.replica._num_inside = held
    assert (caught.value.status_code, caught.value.code) == (503, "queue_full")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    client.images.generate(prompt="a cat", **seeded(77))
    assert server.replica._num_inside == 0


def until(condition: Any) -> None:
    """Waits for something that another thread does; fails after a minute."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
