"""What a person types: help, a mistake, a mistake in a value; and the job as it is submitted to a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.submit_locally import head_node

ROOT = Path(__file__).parents[2]
JOB = "jobs/genbench_500shot.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, JOB, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_names_every_flag():
    done = run("--help")
    assert done.returncode == 0
    for flag in (
        "datasets",
        "sources",
        "generator",
        "generator.source",
        "generator.auxiliaries",
        "generator.steps",
        "generator.size",
        "speed",
        "encoder",
        "strategy",
        "shots",
        "workspace",
        "seeds",
        "image-format",
        "image-quality",
        "price-book",
        "report",
    ):
        assert f"--{flag}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--datasets", "mini-comon"), "error: unknown data set 'mini-comon'; did you mean mini-common"),
        (("--shots", "0"), "error: shots 0"),
        (("--image-format", "gif"), "error: unknown image format 'gif'; known: png, webp, jpeg"),
        (("--image-format", "webp", "--image-quality", "101"), "error: image quality 101 is out of range"),
        (("--image-quality", "90"), "error: image quality 90 has no effect on png, which is lossless; leave it out"),
    ],
)
def test_bad_input_is_one_line_and_a_failing_exit(arguments: tuple[str, ...], message: str, tmp_path: Path):
    done = run(*arguments, "--workspace", str(tmp_path / "workspace"), "--report", str(tmp_path / "report"))
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_of_a_cluster_refuses_places_that_are_deleted_with_it(tmp_path: Path):
    inside = {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    places = {"workspace": str(tmp_path / "workspace"), "report": str(tmp_path / "report")}
    for name in places:
        given = places | {name: f"my-{name}"}
        flags = [part for key, value in given.items() for part in (f"--{key}", value)]
        done = subprocess.run([sys.executable, JOB, *flags], cwd=ROOT, env=inside, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {name} 'my-{name}' is a relative path, and a Ray job runs in a copy")
    assert not list(tmp_path.iterdir())


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_the_job_is_submitted_both_ways(tmp_path: Path, tiny_dataset: Path, tiny_encoder: str):
    arguments = [
        "--datasets",
        str(tiny_dataset),
        "--sources",
        "original",
        "--encoder",
        tiny_encoder,
        "--shots",
        "1",
        "2",
    ]
    arguments += ["--workspace", str(tmp_path / "workspace")]
    ways = {"working_dir": ["--working-dir", str(ROOT), "--", "python", JOB], "bare": ["--", JOB]}
    with head_node() as environment:
        assert os.environ.get("RAY_ADDRESS") is None
        for name, way in ways.items():
            command = ["ray", "job", "submit", *way, *arguments, "--report", str(tmp_path / name)]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        without_token = {key: value for key, value in environment.items() if not key.startswith("RAY_AUTH")}
        refused = subprocess.run(
            ["ray", "job", "list"], cwd=ROOT, env=without_token, capture_output=True, text=True, timeout=100
        )
        assert refused.returncode != 0
    reports = [json.loads((tmp_path / name / "report.json").read_text())["tables"] for name in ways]
    assert reports[0]["tradeoff"] == reports[1]["tradeoff"]
    assert [row["images"] for row in reports[0]["tradeoff"]] == [3, 6]
    # the second submission found everything made
    assert len(reports[1]["runs"]) == 1
