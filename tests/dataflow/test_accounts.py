import pytest

from engine.costs import PriceBook
from engine.dataflow.accounts import Accounts
from engine.store import Workspace

CPU, GPU = "aws-r6i-8xlarge", "aws-p4d-24xlarge"


@pytest.mark.filterwarnings("ignore:the price book has no default")
def test_nodes_are_billed_for_as_long_as_they_were_there_by_what_they_were(tmp_path):
    workspace, prices, now = Workspace.open(tmp_path / "workspace"), PriceBook.load(), 0.0
    accounts = Accounts(workspace, "run-1", prices, None, {}, clock=lambda: now)
    now = 100.0
    accounts.sample({"CPU": 32.0})  # one priced node, from the run's start
    now = 400.0
    accounts.sample({"CPU": 32.0, "GPU": 16.0})  # GPUs join: two nodes of another price from now on
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
    accounts.sample({})
    now = 500.0
    accounts.sample({"CPU": 32.0})
    now = 600.0
    accounts.report("finished")
    assert workspace.runs().to_pylist()[0]["usd_billed"] == pytest.approx(100 * 2.016 / 3600)
