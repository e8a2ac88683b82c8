"""`imagefoundry serve` on Ray Serve: a process of its own per part, killed and stopped in the middle of its work."""

import base64
import html
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import yaml

from engine.failures import RunFailed
from engine.images import decode_image
from engine.models import load_generator
from engine.recipe import Recipe
from engine.serving.config import ServeConfig
from engine.serving.entry import check_serve_file, config_from
from engine.serving.start import _start_serve
from engine.store import Workspace
from tests.serving.command import ROOT, Server, started

RATERS = ("Rita", "Rob", "Ruth", "Ray")


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
def test_a_study_goes_on_while_a_replica_and_the_writer_are_killed(server: Server):
    """Four raters and four clients; both parts die in the middle: no acknowledged rating or image is lost, none is doubled."""
    images: list[str] = []
    failures: list[str] = []
    acknowledged: dict[tuple[str, str], str] = {}
    refused = 0

    def draw(number: int, num: int) -> None:
        with server.client(max_retries=5) as client:
            for turn in range(num):
                body = {"seed": 5000 + 100 * number + turn, "num_inference_steps": 20}
                try:
                    answer = client.images.generate(prompt=f"study {number % 2}", extra_body=body).data[0]
                    images.append(answer.model_extra["image_id"])
                except Exception as error:
                    failures.append(repr(error))

    def answer(rater: str, link: str, value: str) -> None:
        nonlocal refused
        with httpx.Client(base_url=server.url, timeout=120) as visitor:
            for _ in range(200):  # a refused rater tries again
                page = visitor.get(f"{link}&agreed=1")
                if page.status_code != 200:
                    refused += 1
                    time.sleep(0.5)
                    continue
                if 'name="at"' not in page.text:
                    return
                at = re.findall(r'name="at" value="(\d+)"', page.text)[0]
                names = sorted(set(re.findall(r'name="(answer-\d+)"', page.text)))
                form = {"agreed": "1", "at": at, "started": "0", **dict.fromkeys(names, value)}
                if visitor.post(link, data=form).status_code == 303:
                    acknowledged.update({(rater, name): value for name in names})
                else:
                    refused += 1
                    time.sleep(0.5)
        failures.append(f"{rater} never came to the end")

    draw(0, 6)
    draw(1, 6)
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {server.key}"}, timeout=120) as owner:
        methods = {"name-1": "one", "source-1": "generative", "name-2": "other", "source-2": "generative"}
        made = owner.post("/study", data={"task": "matching", "sets": "12", "seed": "1", "rows": "2", **methods})
        assert made.status_code == 303, made.text
        study = made.headers["location"]
        page = owner.get(study, params={"raters": ", ".join(RATERS)}).text
    links = [html.unescape(link) for link in re.findall(r'data-copy="([^"]+)"', page)]
    paths = [link[link.index("/rate/") :] for link in links]
    assert len(paths) == len(RATERS)
    threads = [threading.Thread(target=answer, args=each) for each in zip(RATERS, paths, "1357", strict=True)]
    threads += [threading.Thread(target=draw, args=(number, 4)) for number in range(2, 6)]
    for thread in threads:
        thread.start()
    for part, begun in (("Generator", 8), ("WriterActor", 40)):
        while len(acknowledged) < begun and not failures:
            time.sleep(0.01)
        os.kill(server.pids(part)[0], signal.SIGKILL)
    for thread in threads:
        thread.join(400)
    assert failures == []
    workspace = Workspace.open(server.workspace)
    rows = workspace.read("ratings", f"study_id = '{study.rsplit('/', 1)[1]}'").to_pylist()
    given = {(row["rater"], row["item"]): str(row["answer"]) for row in rows}
    assert len(given) == len(acknowledged) == 24 * len(RATERS)
    assert all(value == dict(zip(RATERS, "1357", strict=True))[rater] for (rater, _), value in given.items())
    assert len(rows) <= len(given) + 2 * refused  # one whose answer was lost on its way may be there twice
    ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
    assert len(ids) == len(set(ids))
    assert len(images) == 28
    assert set(images) <= set(ids)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_stop_answers_what_is_in_flight(server: Server):
    body = {"seed": 1, "num_inference_steps": 100, "queue_events": True}
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


def test_the_start_waits_for_proxies_that_are_late(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    states = [{}, {"node": "STARTING"}, {"node": "HEALTHY", "other": "UNHEALTHY"}, {"node": "HEALTHY"}]

    def start(http_options: dict[str, Any]) -> None:
        asked.append(http_options)
        if len(asked) == 1:
            raise TimeoutError("HTTP proxies not available after 60s.")

    monkeypatch.setattr("ray.serve.start", start)
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(proxies=states.pop(0)))
    _start_serve(ServeConfig(port=8123))
    assert asked == [{"host": "127.0.0.1", "port": 8123}] * 2
    assert states == []


def test_proxies_that_never_answer_are_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ray.serve.start", lambda http_options: None)
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(proxies={"node": "STARTING"}))
    monkeypatch.setattr("engine.serving.start.PROXY_SECONDS", 0.0)
    with pytest.raises(RunFailed, match="proxy did not answer"):
        _start_serve(ServeConfig(port=8123))


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


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_proxy_that_starts_slowly_is_waited_for(tmp_path: Path, tiny_pipeline: str, tiny_encoder: str):
    """Serve kills a proxy that is not ready in time, and starts another; so it does to every proxy of a busy machine."""
    impatient = {
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "0.1",
        "RAY_SERVE_PROXY_GRACEFUL_SHUTDOWN_TIMEOUT_S": "0.1",
    }
    with (
        started(tmp_path, tiny_pipeline, tiny_encoder, "--device", "cpu", variables=impatient) as server,
        server.client() as client,
    ):
        assert client.images.generate(prompt="a red apple", extra_body={"seed": 5}).data
