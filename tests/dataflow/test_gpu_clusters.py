"""Pools on clusters of logical GPUs, whose workers compute on the processor; see `gpu_scenarios`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.costs import PriceBook

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def played() -> dict[str, dict[str, Any]]:
    """Scenario → what came of it."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "IMAGEFOUNDRY_MAX_"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.dataflow.gpu_scenarios"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr[-3000:]
    return {one["name"]: one for one in found}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("joins_late", 24),
        ("fractions", 96),
        ("whole", 96),
        ("both", 96),
        ("sick", 400),
        ("drains", 800),
        ("leaves", 600),
    ],
)
def test_every_pool_ends_with_the_planned_rows(played, name: str, rows: int):
    scene = played[name]
    assert (scene["rows"], scene["distinct"], scene["errors"], scene["error"]) == (rows, rows, 0, "")


def test_a_job_that_needs_gpus_waits_for_a_node_that_has_them_and_is_priced_by_it(played):
    scene = played["joins_late"]
    assert any("waiting for a place: a worker needs 1 GPU" in line for line in scene["said"])
    assert set(scene["touched"]) <= {"0", "1"}
    assert PriceBook.load().instance(scene["instance"]).accelerator == "A100"


def test_an_actor_that_no_node_can_hold_is_refused(played):
    assert "an actor needs 4 GPUs" in played["never_fits"]["error"]


def test_workers_share_gpus_hold_one_or_hold_several(played):
    assert set(played["fractions"]["touched"]) == {"0", "1"}
    assert len(played["fractions"]["touched"]) == 4
    assert played["whole"]["touched"] == ["0", "1"]
    assert set(played["both"]["touched"]) == {"0,1"}


def test_images_are_read_by_processors_and_generated_on_gpus(played):
    scene = played["reads"]
    assert (scene["rows"], scene["distinct"], scene["errors"]) == (94, 94, 2)
    on_gpus = set(scene["touched"]) - {"none"}
    assert on_gpus
    assert on_gpus <= {"0", "1"}
    assert "none" in scene["touched"]


def test_a_sick_gpu_is_left_alone_and_named(played):
    assert any(line.startswith("GPU 1 of node") and "is left alone" in line for line in played["sick"]["said"])


def test_a_cluster_whose_gpus_all_fail_stops_the_run_and_makes_no_error_rows(played):
    scene = played["all_sick"]
    assert "every GPU of the cluster failed" in scene["error"]
    assert (scene["rows"], scene["errors"]) == (0, 0)


def test_another_encoder_reads_on_processors_and_embeds_on_gpus(played):
    assert (played["embed"]["embedded"], played["embed"]["same"]) == (600, True)


def test_nodes_that_are_told_to_go_end_what_they_hold_and_waste_nothing(played):
    scene = played["drains"]
    assert len(scene["touched"]) >= 4
    assert scene["wasted"] == 0
    assert not [line for line in scene["said"] if "gone with its node" in line]


def test_the_workers_of_a_node_that_leaves_are_replaced(played):
    assert len(played["leaves"]["touched"]) >= 3
