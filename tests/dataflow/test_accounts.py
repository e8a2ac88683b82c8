import pytest

from engine.costs import PriceBook, usd_per_device_second
from engine.dataflow.accounts import Accounts
from engine.dataflow.resources import CPU_ASK, Ask
from engine.store import Workspace

CPU, GPU = "aws-r6i-8xlarge", "aws-p4d-24xlarge"


@pytest.mark.filterwarnings("ignore:the price book has no default")
def test_nodes_are_billed_for_as_long_as_they_were_there_by_what_they_were(tmp_path):
    workspace, prices, now = Workspace.open(tmp_path / "workspace"), PriceBook.load(), 0.0
    accounts = Accounts(workspace, "run-1", prices, None, {}, clock=lambda: now)
    now = 100.0
    accounts.sample([{"CPU": 32.0}])  # one priced node, from the run's start
    now = 400.0
    accounts.sample([{"CPU": 16.0, "GPU": 8.0}] * 2)  # replaced by two nodes of another price
    now = 1000.0
    accounts.report("finished")
    (row,) = workspace.runs().to_pylist()
    usd = 400 * prices.instance(CPU).usd_per_hour + 600 * 2 * prices.instance(GPU).usd_per_hour
    assert row["usd_billed"] == pytest.approx(usd / 3600)
    assert row["nodes"] == pytest.approx((400 * 1 + 600 * 2) / 1000)
    assert row["instance"] == GPU


def test_a_cluster_without_a_priced_node_is_billed_nothing_until_one_joins(tmp_path):
    workspace, prices, now = Workspace.open(tmp_path / "workspace"), PriceBook.load(), 0.0
    accounts = Accounts(workspace, "run-1", prices, CPU, {}, clock=lambda: now)
    accounts.sample([])
    now = 500.0
    accounts.sample([{"CPU": 32.0}])
    now = 600.0
    accounts.report("finished")
    assert workspace.runs().to_pylist()[0]["usd_billed"] == pytest.approx(100 * 2.016 / 3600)


def test_nodes_of_several_kinds_are_each_priced_at_their_own_rate(tmp_path):
    workspace, prices, now = Workspace.open(tmp_path / "workspace"), PriceBook.load(), 0.0
    accounts = Accounts(workspace, "run-1", prices, None, {}, clock=lambda: now)
    processors = {"CPU": 16.0}
    a100 = {"CPU": 12.0, "GPU": 1.0, "accelerator_type:A100": 1.0}
    h100 = {"CPU": 24.0, "GPU": 1.0, "accelerator_type:H100": 1.0}
    nodes = {"cpu": processors, "a": a100, "h": h100}
    accounts.sample([*nodes.values()])
    now = 3600.0
    accounts.sample([processors])  # the GPUs have gone
    accounts.report("finished")
    (row,) = workspace.runs().to_pylist()
    cpu, a, h = (prices.for_device(name) for name in (None, "A100", "H100"))
    hourly = [
        cpu.usd_per_hour * 16 / cpu.num_cpus,
        a.usd_per_hour * max(1 / a.num_gpus, 12 / a.num_cpus),
        h.usd_per_hour * max(1 / h.num_gpus, 24 / h.num_cpus),
    ]
    assert row["usd_billed"] == pytest.approx(sum(hourly))
    assert row["instance"] == (a if hourly[1] > hourly[2] else h).name
    per_second = [accounts.pricing(Ask(0.5, 1.0), node).usd_per_device_second for node in (a100, h100)]
    assert per_second == [usd_per_device_second(one, num_gpus=1.0) for one in (a, h)]
    assert per_second[0] < per_second[1]
    assert accounts.pricing(CPU_ASK, processors).usd_per_device_second == usd_per_device_second(cpu, num_cpus=1.0)


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_run_keeps_running_until_its_last_ledger_is_written(tmp_path, monkeypatch, is_announced):
    workspace = Workspace.open(tmp_path / "workspace")
    accounts = Accounts(workspace, "run-1", PriceBook.load(), CPU, {})
    if is_announced:
        accounts.announce()
    accounts.add_stage("make", 5, 1.0, CPU_ASK)

    def fail(*arguments):
        raise OSError("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(workspace, "put_ledger", fail)
        with pytest.raises(OSError, match="cut off"):
            accounts.report("interrupted")
    assert [row["status"] for row in workspace.runs().to_pylist()] == ["running"]
    accounts.report("interrupted")
    assert [row["status"] for row in workspace.runs().to_pylist()] == ["interrupted"]
    assert [row["rows"] for row in workspace.ledger().to_pylist()] == [5]
