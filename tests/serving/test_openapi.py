"""The description of the API is complete, and no request that it allows (or forbids) makes the server fail."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving.local import ANNS, Running, running

ROUTES = {
    "/v1/images/generations": {"post"},
    "/v1/images/edits": {"post"},
    "/v1/images": {"post"},
    "/v1/images/{image_id}": {"get"},
    "/v1/images/{image_id}/content": {"get"},
    "/v1/models": {"get"},
    "/v1/models/{name}": {"get"},
    "/v1/retrievers": {"get"},
    "/v1/retrieve": {"post"},
    "/healthz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: str, tiny_encoder: str) -> Iterator[Running]:
    """A server whose largest allowed requests are quick."""
    folder = tmp_path_factory.mktemp("small")
    with running(folder, tiny_pipeline, tiny_encoder, max_steps=3, max_megapixels=0.001, max_queue=500) as found:
        yield found


def test_every_route_is_described_and_none_is_open(small: Running):
    headers = {"authorization": f"Bearer {ANNS}"}
    assert httpx.get(f"{small.url}/openapi.json").status_code == 401
    description = httpx.get(f"{small.url}/openapi.json", headers=headers).json()
    assert {path: set(methods) for path, methods in description["paths"].items()} == ROUTES
    fields = description["components"]["schemas"]["ImageRequest"]["properties"]
    assert all("description" in field or "$ref" in field for field in fields.values())
    for path, methods in ROUTES.items():
        if path != "/healthz":
            answer = httpx.request(next(iter(methods)), small.url + path.replace("{", "").replace("}", ""))
            assert answer.status_code == 401, path
    for path in ("/docs", "/redoc"):
        assert httpx.get(small.url + path, headers=headers).status_code == 404


def test_no_request_makes_the_server_fail(small: Running, tmp_path: Path):
    checks = "not_a_server_error,content_type_conformance,response_schema_conformance"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{small.url}/openapi.json"),
        *("-H", f"Authorization: Bearer {ANNS}", "--checks", checks),
        *("--max-examples", "12", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--request-timeout", "60"),
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stdout[-4000:]
    assert "11 selected" in found.stdout or "11 / 11" in found.stdout, found.stdout[-2000:]
