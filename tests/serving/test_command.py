"""`imagefoundry serve` on Ray Serve: a process of its own per part, killed and stopped in the middle of its work."""

import base64
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import yaml

from engine.images import decode_image
from engine.models import load_generator
from engine.recipe import Recipe
from engine.serving.entry import check_serve_file, config_from
from engine.store import Workspace
from tests.serving.command import ROOT, Server, started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: str, tiny_encoder: str) -> Iterator[Server]:
    options = ("--replicas", "2", "--device", "cpu")
    with started(tmp_path_factory.mktemp("served"), tiny_pipeline, tiny_encoder, *options) as found:
        yield found


def listeners() -> list[str]:
    """Hexadecimal `address:port` of every listening TCP socket of this machine."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1] for line in lines if line[3] == "0A"]


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_it_answers_the_openai_client(server: Server, tiny_pipeline: str):
    with server.client() as client:
        answer = client.images.generate(prompt="a red apple", extra_body={"seed": 5})
        entry = answer.data[0]
        recipe = Recipe(**entry.model_extra["recipe"])
        engine = load_generator(tiny_pipeline, batch_size=entry.model_extra["batch_size"])
        expected = engine.generate([recipe])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(decode_image(base64.b64decode(entry.b64_json)), expected)
        again = client.images.generate(prompt="a red apple", extra_body={"seed": 5}).data[0]
        assert not again.model_extra["is_new"]
        stream = client.images.generate(
            prompt="a tree", stream=True, partial_images=1, extra_body={"seed": 1, "num_inference_steps": 4}
        )
        kinds = [event.type for event in stream]
        assert kinds == ["image_generation.partial_image", "image_generation.completed"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a tree", size="1x1000000")
        assert caught.value.param == "size"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="if-wrong").images.generate(prompt="a tree")
    found = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {server.key}"}).text
    assert "imagefoundry_images_total{" in found


@pytest.mark.cluster
def test_it_listens_on_loopback_alone_and_says_where(server: Server):
    port = int(server.url.rsplit(":", 1)[1])
    assert [one for one in listeners() if one.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    text = "".join(server.lines)
    assert f"OpenAI base URL: {server.url}/v1" in text
    assert server.key not in text


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["Generator", "WriterActor"])
def test_a_killed_process_loses_no_request(server: Server, part: str):
    """Eight clients; the process dies in the middle: each request is answered, each answer is in the table, once."""
    answers: list[Any] = []
    errors: list[Exception] = []

    def ask(number: int) -> None:
        with server.client(max_retries=5) as client:
            for turn in range(6):
                try:
                    body = {"seed": 1000 * number + turn, "num_inference_steps": 20}
                    answers.append(client.images.generate(prompt=f"{part} {number}", extra_body=body).data[0])
                except Exception as error:
                    errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len(answers) < 8 and not errors:
        time.sleep(0.01)
    victims = server.pids(part)
    assert victims, f"no process of {part}"
    os.kill(victims[0], signal.SIGKILL)
    for thread in threads:
        thread.join(300)
    assert errors == []
    assert len(answers) == 48
    workspace = Workspace.open(server.workspace)
    ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert {one.model_extra["image_id"] for one in answers} <= set(ids)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_stop_answers_what_is_in_flight(server: Server):
    body = {"seed": 1, "num_inference_steps": 150, "queue_events": True}
    kinds: list[str] = []
    with server.client(max_retries=0) as client:
        for event in client.images.generate(prompt="the last one", n=4, size="64x64", stream=True, extra_body=body):
            kinds.append(event.type)
            if event.type == "imagefoundry.started" and kinds.count(event.type) == 1:
                server.process.terminate()
    assert kinds.count("image_generation.completed") == 4
    assert server.process.wait(300) == 0
    with Workspace.open(server.workspace).lock("after"):
        pass
    (run,) = Workspace.open(server.workspace).read("runs", "status = 'finished'").to_pylist()[-1:]
    assert run["run_id"].startswith("serve-")


def test_the_config_file_fits_rays_schema_strictly():
    content = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    check_serve_file(content)
    assert config_from(content["applications"][0]["args"]).generators == ("sdxl",)
    assert content["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"httpoptions": {}}, "unknown key 'httpoptions'"),
        ({"http_options": {"hostt": "127.0.0.1"}}, "unknown key 'hostt'"),
        ({"http_options": {}}, "host is missing"),
        ({"http_options": {"host": "127.0.0.1", "port": "many"}}, "port"),
        ({"applications": [{"import_path": "serve/app.py"}]}, "no MODULE:NAME"),
        (
            {"applications": [{"import_path": "serve.app:app", "args": {"generator": "mini"}}]},
            "unknown setting 'generator'",
        ),
        ({"applications": [{"import_path": "serve.app:app", "args": {"replicas": "x"}}]}, "setting replicas is 'x'"),
        ({"applications": [{"import_path": "serve.app:app", "args": {"replicas": 0}}]}, "replicas is 0"),
        (
            {"applications": [{"import_path": "serve.app:app", "deployments": [{"name": "a", "num_replica": 2}]}]},
            "unknown key 'num_replica'",
        ),
    ],
)
def test_a_wrong_config_file_is_one_sentence(place: dict[str, Any], message: str):
    content = {"http_options": {"host": "127.0.0.1"}, "applications": [{"import_path": "serve.app:app"}]}
    with pytest.raises(ValueError, match=message):
        check_serve_file(content | place)
