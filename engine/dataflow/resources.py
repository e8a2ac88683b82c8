"""What an actor holds and what the cluster has, so that pools fill the machine and no more."""

from dataclasses import dataclass

ACTOR_CPUS = 0.9
"""CPU slot of a making actor on a cluster without GPUs; the tenth it leaves is for the writers."""
WRITER_CPUS = 0.1
"""CPU slot of a task that writes a fragment: it mostly waits for the disk."""


@dataclass(frozen=True)
class Pool:
    """Size of an actor pool and what each actor holds."""

    num_actors: int
    num_cpus: float
    """CPU slots an actor is scheduled with."""
    num_gpus: float
    """Share of a GPU an actor holds; 0 on a cluster without GPUs."""

    @property
    def device(self) -> str:
        """Torch device of an actor."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def priced_cpus(self) -> float:
        """CPUs an actor keeps busy, for the price of its seconds."""
        return 0.0 if self.num_gpus else 1.0


def size_pool(cluster: dict[str, float], gpus_per_actor: float, most: int) -> Pool:
    """A pool that fills the cluster's GPUs, or its CPUs when it has none; at most `most` actors.

    Args:
        cluster: `ray.cluster_resources()`.
        gpus_per_actor: share of a GPU (0 < share <= 1, or a whole number) that the model takes.
        most: no more actors than there are blocks of work.
    """
    gpus = cluster.get("GPU", 0.0)
    if gpus >= min(1.0, gpus_per_actor):
        return Pool(max(1, min(most, int(gpus / gpus_per_actor))), 1.0, gpus_per_actor)
    return Pool(max(1, min(most, int(cluster.get("CPU", 1.0)))), ACTOR_CPUS, 0.0)


def cluster_nodes(cluster: dict[str, float], instance_cpus: float, instance_gpus: float) -> float:
    """Size of the cluster in units of the priced instance: 4.0 for four of them, 1/16 for two of its 32 CPUs."""
    shares = [cluster.get("CPU", 0.0) / instance_cpus if instance_cpus else 0.0]
    if instance_gpus:
        shares.append(cluster.get("GPU", 0.0) / instance_gpus)
    return max(shares)
