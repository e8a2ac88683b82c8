import pytest

from engine.dataflow.resources import cluster_nodes, size_pool


@pytest.mark.parametrize(
    ("cluster", "share", "most", "actors", "gpus"),
    [
        ({"CPU": 2}, 1.0, 99, 2, 0.0),
        ({"CPU": 2}, 1.0, 1, 1, 0.0),
        ({"CPU": 64, "GPU": 8}, 1.0, 99, 8, 1.0),
        ({"CPU": 64, "GPU": 8}, 0.25, 99, 32, 0.25),
        ({"CPU": 64, "GPU": 8}, 2.0, 99, 4, 2.0),
        ({}, 1.0, 99, 1, 0.0),
    ],
)
def test_a_pool_fills_what_the_cluster_has(cluster, share: float, most: int, actors: int, gpus: float):
    pool = size_pool(cluster, share, most)
    assert (pool.num_actors, pool.num_gpus) == (actors, gpus)
    assert pool.device == ("cuda" if gpus else "cpu")


def test_actors_leave_room_for_the_writers():
    pool = size_pool({"CPU": 2}, 1.0, 99)
    assert pool.num_actors * pool.num_cpus < 2


def test_a_cluster_is_counted_in_units_of_the_priced_instance():
    assert cluster_nodes({"CPU": 2}, 32, 0) == 1 / 16
    assert cluster_nodes({"CPU": 96, "GPU": 4}, 24, 1) == 4
