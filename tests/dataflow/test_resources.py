import pytest

from engine.dataflow.resources import Ask, Cluster, choose_ask, cluster_nodes

CPU_NODE = {"CPU": 4.0}
GPU_NODE = {"CPU": 4.0, "GPU": 1.0}
BIG_NODE = {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "share", "room", "gpus"),
    [
        ([{"CPU": 2.0}], 1.0, 2, 0.0),
        ([BIG_NODE], 1.0, 8, 1.0),
        ([BIG_NODE], 0.25, 32, 0.25),
        ([BIG_NODE], 2.0, 4, 2.0),
        ([GPU_NODE], 0.25, 4, 0.25),
        ([GPU_NODE, CPU_NODE], 1.0, 1, 1.0),
        ([BIG_NODE], 0.4, 16, 0.4),
    ],
)
def test_a_pool_fills_what_the_nodes_have(nodes, share, room, gpus):
    cluster = Cluster(nodes)
    ask = choose_ask(cluster, share)
    assert (cluster.room(ask), ask.num_gpus) == (room, gpus)


def test_workers_on_a_small_gpu_machine_leave_processors_for_reading():
    """A g5.xlarge has 4 vCPUs and one GPU; four models of a quarter of it must not hold all of them."""
    ask = choose_ask(Cluster([GPU_NODE]), 0.25)
    assert Cluster([GPU_NODE]).room(ask) * ask.num_cpus <= 1
    assert Cluster([GPU_NODE]).spare_cpus(ask) == 3
    assert Cluster([{"CPU": 1.0, "GPU": 1.0}]).spare_cpus(ask) == 0
    assert Cluster([GPU_NODE, {"CPU": 8.0}]).spare_cpus(ask) == 11


def test_the_device_is_that_of_the_share_and_can_be_forced_to_the_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("IMAGEFOUNDRY_DEVICE", raising=False)  # tests on the shared cluster set it
    assert (Ask(1.0).device, Ask(0.5, 0.5).device) == ("cpu", "cuda")
    monkeypatch.setenv("IMAGEFOUNDRY_DEVICE", "cpu")
    assert Ask(0.5, 0.5).device == "cpu"


def test_a_head_without_gpus_waits_for_those_that_its_autoscaler_can_add():
    head = Cluster([CPU_NODE], addable=[GPU_NODE], may_grow=True)
    assert choose_ask(head, 1.0).num_gpus == 1
    assert head.room(choose_ask(head, 1.0)) == 0


def test_work_that_needs_a_gpu_waits_on_a_cluster_and_is_refused_on_a_machine_without():
    assert choose_ask(Cluster([CPU_NODE], may_grow=True), 1.0, needs_gpu=True).num_gpus == 1
    with pytest.raises(ValueError, match="needs a GPU and this machine has none"):
        choose_ask(Cluster([CPU_NODE]), 1.0, needs_gpu=True)
    assert choose_ask(Cluster([CPU_NODE]), 1.0, needs_gpu=True, device="cpu").num_gpus == 0
    assert choose_ask(Cluster([CPU_NODE]), 1.0).num_gpus == 0


def test_what_no_node_can_ever_hold_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"needs 2 GPUs and 0\.5 CPUs of one node, and no node has more than 1 GPUs"):
        choose_ask(Cluster([GPU_NODE, GPU_NODE], may_grow=True), 2.0)
    assert choose_ask(Cluster([GPU_NODE], addable=[BIG_NODE], may_grow=True), 2.0).num_gpus == 2


def test_a_cluster_is_counted_in_units_of_the_priced_instance():
    assert cluster_nodes({"CPU": 2}, 32, 0) == 1 / 16
    assert cluster_nodes({"CPU": 96, "GPU": 4}, 24, 1) == 4
