"""Resources of an actor and of the cluster, and whether the actor can ever be placed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.models.device import torch_device

GPU_ACTOR_CPUS = 0.5
"""CPU slots of an actor that holds a whole GPU, less for a share. Its work is on the GPU, and the tasks that read
and decode for it need the processors (a machine with 4 vCPUs and one GPU is common)."""

Device = Literal["auto", "cpu", "gpu"]
"""Device of the models: `auto` takes GPUs if the cluster has them or can add them."""


@dataclass(frozen=True)
class Ask:
    """Resources that each actor of a pool holds."""

    num_cpus: float
    """CPU slots for scheduling."""
    num_gpus: float = 0.0
    """GPUs: a fraction of one, or a whole number."""

    @property
    def device(self) -> str:
        """Torch device of an actor."""
        return torch_device(self.num_gpus)

    @property
    def priced_cpus(self) -> float:
        """CPUs that an actor keeps busy; they determine the price of its seconds."""
        return 0.0 if self.num_gpus else 1.0


CPU_ASK = Ask(1.0)


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster at one moment, and the node types that its autoscaler may add."""

    nodes: Sequence[dict[str, float]]
    """Resources of each live node."""
    addable: Sequence[dict[str, float]] = ()
    """Resources of each node type that an autoscaler may add."""
    may_grow: bool = False
    """Whether nodes may join: true except for a cluster that this process started for itself."""
    ids: Sequence[str] = ()
    """Id of each node."""
    leaving: frozenset[str] = frozenset()
    """Ids of nodes that were told to go (a drain, a notice of pre-emption); they are not among `nodes`."""

    def node(self, node_id: str) -> dict[str, float] | None:
        """Resources of a node; None if it is not there or is leaving."""
        return dict(zip(self.ids, self.nodes, strict=True)).get(node_id)

    @property
    def total(self) -> dict[str, float]:
        """Sums over all live nodes."""
        names = {name for node in self.nodes for name in node}
        return {name: sum(node.get(name, 0.0) for node in self.nodes) for name in names}

    @property
    def knows_gpus(self) -> bool:
        """Whether it has GPUs or can add them."""
        return any(node.get("GPU", 0.0) >= 1 for node in (*self.nodes, *self.addable))

    def room(self, ask: Ask) -> int:
        """Number of actors that fit into the live nodes when these are empty."""
        return sum(_fitting(node, ask) for node in self.nodes)

    def spare_cpus(self, ask: Ask) -> int:
        """Number of CPUs that are free for tasks of one CPU when workers fill the nodes."""
        return sum(int(node.get("CPU", 0.0) - _fitting(node, ask) * ask.num_cpus + 1e-6) for node in self.nodes)

    def could_ever_place(self, ask: Ask) -> bool:
        """Whether an actor fits into a present node or one that may be added."""
        return any(_fitting(node, ask) for node in (*self.nodes, *self.addable))


def _fitting(node: dict[str, float], ask: Ask) -> int:
    fit = int((node.get("CPU", 0.0) + 1e-6) / ask.num_cpus)
    if not ask.num_gpus:
        return fit
    gpus = int(node.get("GPU", 0.0))
    if ask.num_gpus < 1:  # a fraction lies on one GPU, never on two
        return min(fit, gpus * int(1 / ask.num_gpus + 1e-6))
    return min(fit, int(gpus / ask.num_gpus))


def choose_ask(cluster: Cluster, gpus_per_actor: float, needs_gpu: bool = False, device: Device = "auto") -> Ask:
    """Resources per actor of a pool: GPUs if the cluster has them or can add them, or if the work needs them.

    Raises:
        ValueError: no present or future node can hold such an actor.
    """
    if device == "cpu" or (device == "auto" and not needs_gpu and not cluster.knows_gpus):
        ask = CPU_ASK
    else:
        ask = Ask(GPU_ACTOR_CPUS * min(1.0, gpus_per_actor), gpus_per_actor)
    waits = bool(ask.num_gpus) and not cluster.knows_gpus and cluster.may_grow
    if waits or cluster.could_ever_place(ask) or (not cluster.nodes and cluster.may_grow):
        return ask
    if not cluster.knows_gpus and ask.num_gpus:
        raise ValueError(
            "the work needs a GPU and this machine has none; run it on a cluster with GPUs, or add --device cpu"
        )
    most = {name: max(node.get(name, 0.0) for node in (*cluster.nodes, *cluster.addable)) for name in ("GPU", "CPU")}
    raise ValueError(
        f"an actor needs {ask.num_gpus:g} GPUs and {ask.num_cpus:g} CPUs of one node, and no node has more than "
        f"{most['GPU']:g} GPUs and {most['CPU']:g} CPUs; use larger nodes, or a model that takes less"
    )


def current_cluster(may_grow: bool) -> Cluster:
    """The current state of the cluster that Ray is connected to."""
    import ray

    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    leaving = frozenset(_leaving()) & set(nodes)
    staying = {name: resources for name, resources in nodes.items() if name not in leaving}
    return Cluster([*staying.values()], _addable(), may_grow, [*staying], leaving)


def _leaving() -> list[str]:
    """Ids of the nodes that are being drained."""
    import ray

    state: Any = ray._private.state.state
    try:
        return list(state.get_draining_nodes())
    except AttributeError:  # no public interface has this, so another release of Ray may lack it
        return []


def _addable() -> list[dict[str, float]]:
    """Node types that the autoscaler has reported to Ray's head; none without an autoscaler."""
    import ray

    state: Any = ray._private.state.state
    try:
        config = state.get_cluster_config()
    except (AttributeError, RuntimeError):  # no public interface has this, so another release of Ray may lack it
        return []
    if config is None:
        return []
    return [
        {name: float(value) for name, value in group.resources.items()}
        for group in config.node_group_configs
        if group.max_count
    ]


def cluster_nodes(cluster: dict[str, float], instance_cpus: float, instance_gpus: float) -> float:
    """Size of the cluster in units of the priced instance: 4.0 for four of them, 1/16 for two of its 32 CPUs."""
    shares = [cluster.get("CPU", 0.0) / instance_cpus if instance_cpus else 0.0]
    if instance_gpus:
        shares.append(cluster.get("GPU", 0.0) / instance_gpus)
    return max(shares)
