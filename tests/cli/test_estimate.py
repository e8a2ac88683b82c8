"""`imagefoundry estimate` from pilots whose figures are known."""

from pathlib import Path

import pyarrow as pa
import pytest

from engine.cli.estimate import OTHER_BYTES, EstimateConfig, estimate
from engine.cli.main import main
from engine.store import Workspace
from tests.store.helpers import add, sound_rows
from tests.store.test_workspace import RUN


def generated(indices, generator: str, run_id: str) -> pa.Table:
    table = sound_rows(indices)
    for name, value in (("generator", generator), ("run_id", run_id)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array([value] * len(indices)))
    return table


@pytest.fixture
def pilot(tmp_path: Path) -> Workspace:
    """100 images by `sdxl` in 1,000 s of 2 nodes of 3.6 USD per hour, of which 1.5 USD were busy."""
    workspace = Workspace.open(tmp_path / "pilot")
    workspace.ensure_encoder("a", 4)
    add(workspace, generated(range(100), "sdxl", "run-1"))
    workspace.put_run(
        RUN
        | {
            "nodes": 2.0,
            "wall_seconds": 1_000.0,
            "usd_per_hour": 3.6,
            "usd_busy": 1.5,
            "usd_billed": 2.0,
            "images": 100,
        }
    )
    return workspace


def test_a_job_is_worked_out_from_its_pilot(pilot: Workspace, capsys):
    found = estimate(EstimateConfig(pilot.uri, images=10_000, nodes=4))
    assert found.pilot_images == 100
    assert (found.usd_busy, found.usd_billed) == pytest.approx((150, 200))
    # 200,000 node seconds; a node costs 3.6 USD per hour
    assert (found.hours_busy, found.hours_billed) == pytest.approx((150 / 3.6 / 4, 200_000 / 3_600 / 4))
    sizes = [len(one) for one in pilot.scan(["image"]).read_all()["image"].to_pylist()]
    assert found.gigabytes == pytest.approx((sum(sizes) / 100 + 4 * 4 + OTHER_BYTES) * 10_000 / 1e9)
    assert main(["estimate", pilot.uri, "--images", "10000", "--nodes", "4"]) == 0
    assert "150.00 to 200.00 USD" in capsys.readouterr().out


def test_runs_on_the_newest_kind_of_machine_decide(pilot: Workspace):
    add(pilot, generated(range(100, 200), "sdxl", "run-2"))
    (first,) = pilot.runs().to_pylist()
    pilot.put_run(
        first | {"run_id": "run-2", "started_at": first["started_at"].replace(year=2027), "instance": "other"}
    )
    found = estimate(EstimateConfig(pilot.uri, images=100, nodes=2))
    assert (found.instance, found.pilot_images, found.usd_busy) == ("other", 100, pytest.approx(1.5))


def test_what_is_no_pilot_is_refused(pilot: Workspace, capsys):
    assert main(["estimate", pilot.uri, "--images", "0"]) == 2
    assert main(["estimate", pilot.uri, "--images", "5", "--generator", "flux"]) == 2
    assert "has 0 images of flux, too few" in capsys.readouterr().err
    add(pilot, generated(range(100, 150), "flux", "run-1"))
    assert main(["estimate", pilot.uri, "--images", "5"]) == 2
    assert "images of flux, sdxl; name one" in capsys.readouterr().err
    assert main(["estimate", pilot.uri, "--images", "5", "--generator", "sdxl"]) == 2
    assert "run-1 also made 50 images of other kinds" in capsys.readouterr().err


def test_a_workspace_without_generated_images_is_no_pilot(tmp_path: Path, capsys):
    workspace = Workspace.open(tmp_path / "empty")
    assert main(["estimate", workspace.uri, "--images", "5"]) == 2
    assert "no generated images; make some" in capsys.readouterr().err
