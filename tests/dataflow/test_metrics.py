"""The metrics of a run: exported by Ray, shown by the dashboard."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from engine.costs import PriceBook
from engine.dataflow.metrics import COUNTERS, GAUGES
from engine.dataflow.run import Run
from engine.store import Workspace
from engine.testing.makers import PaintMaker, PaintPlan, paint_embed

EXPORTED = {*(f"ray_{name}_total" for name in COUNTERS), *(f"ray_{name}" for name in GAUGES)}


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads((Path(__file__).parents[2] / "deploy" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for text in expressions for name in re.findall(r"ray_\w+", text)} == EXPORTED
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_prometheus_reads_what_a_run_did(tmp_path: Path):
    import ray

    workspace = Workspace.open(tmp_path / "workspace")
    with Run(workspace, PriceBook.load(), device="cpu", max_workers=1) as run:
        run.fill("paint", PaintPlan(30), PaintMaker(bad_seeds=(3,)), [paint_embed()])
    (row,) = workspace.runs().to_pylist()
    expected = {
        "ray_imagefoundry_images_total": 29,
        "ray_imagefoundry_errors_total": 1,
        "ray_imagefoundry_planned": 30,
        "ray_imagefoundry_workers": 0,  # the fill has ended
        "ray_imagefoundry_busy_seconds_total": pytest.approx(row["busy_seconds"]),
        "ray_imagefoundry_usd_total": pytest.approx(row["usd_busy"]),
    }
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline, found = time.monotonic() + 120, dict[str, float]()
    while time.monotonic() < deadline:  # Ray exports every few seconds
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        mine = re.findall(rf'^(ray_imagefoundry_\w+){{.*run_id="{run.run_id}".*}} (\S+)$', text, re.MULTILINE)
        found = {name: float(value) for name, value in mine}
        if set(found) == EXPORTED and expected == {name: found[name] for name in expected}:
            return
        time.sleep(0.2)
    assert set(found) == EXPORTED
    assert {name: found[name] for name in expected} == expected
