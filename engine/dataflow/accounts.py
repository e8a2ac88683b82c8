"""Accounts of a run: its work and its bill, as rows of `runs` and `ledger` that are renewed while the run goes on."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.costs import Instance, PriceBook, billed_usd, usd_per_device_second
from engine.dataflow.resources import Ask, cluster_nodes
from engine.dataflow.rows import KINDS, SUMS, Pricing
from engine.sources import kinds
from engine.store import Workspace

REPORT_EVERY_SECONDS = 15.0
"""Seconds between two renewals of a run's rows; a killed run is billed up to the last one."""


class Accounts:
    """Accounts of one run."""

    def __init__(
        self,
        workspace: Workspace,
        run_id: str,
        prices: PriceBook,
        instance_name: str | None,
        config: dict[str, Any],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._workspace, self._run_id, self._prices, self._config = workspace, run_id, prices, config
        self._instance = prices.instance(instance_name) if instance_name else prices.for_device(None)
        self._is_settled = bool(instance_name)
        self._clock = clock
        self._started_at = datetime.now(UTC)
        self._started = self._reported = self._sampled = clock()
        self._nodes: Sequence[dict[str, float]] | None = None
        self._node_seconds = self._usd_billed = 0.0
        self._is_announced = False
        self._work: dict[tuple[str, ...], dict[str, Any]] = {}
        self.images = 0
        self.errors = 0
        self.planned: int | None = None
        """Images to make, as far as is known; None if the run fills no plan."""

    @property
    def instance(self) -> Instance:
        """The configured instance, or that of the cluster's GPUs once there are any: of several, the one that costs most."""
        return self._instance

    @property
    def has_work(self) -> bool:
        """Whether there is any work to record."""
        return bool(self._work)

    def pricing(self, ask: Ask, node: dict[str, float] | None = None) -> Pricing:
        """Prices for what an actor holds, of the node with these resources, or of `instance` if that is not known."""
        return Pricing(
            usd_per_device_second(
                self.instance if node is None else self._instance_of(node),
                num_gpus=ask.num_gpus,
                num_cpus=ask.priced_cpus,
            ),
            {kind.name: kind.usd_per_label(self._prices) for kind in kinds.SOURCE_KINDS},
        )

    def sample(self, nodes: Sequence[dict[str, float]]) -> None:
        """Records the resources of the cluster's nodes; they are billed from the last sample on, or from the run's start.

        Each node is billed as a share of its own instance: the configured one, or the price book's for its accelerator.
        """
        if self._nodes is None:
            self._nodes = nodes
        self._bill()
        self._nodes = nodes
        rates: dict[Instance, float] = {}
        for instance, share in self._shares():
            rates[instance] = rates.get(instance, 0.0) + share * instance.usd_per_hour
        if rates and not self._is_settled:
            most = max(rates, key=lambda one: (one.num_gpus > 0, rates[one]))
            if most.num_gpus or not self._instance.num_gpus:  # GPUs that have gone did the work all the same
                self._instance = most

    def _bill(self) -> None:
        """Bills the nodes of the last sample up to now."""
        now = self._clock()
        seconds = now - self._sampled
        for instance, share in self._shares():
            self._node_seconds += share * seconds
            self._usd_billed += billed_usd(instance, share, seconds)
        self._sampled = now

    def _shares(self) -> list[tuple[Instance, float]]:
        """Instance of each node, and how much of it the node is."""
        found = []
        for node in self._nodes or ():
            instance = self._instance_of(node)
            found.append((instance, cluster_nodes(node, instance.num_cpus, instance.num_gpus)))
        return found

    def add(self, entry: dict[str, Any]) -> None:
        """Adds a ledger row, without its run id, to the sums of its kind."""
        total = self._work.setdefault(tuple(entry[name] for name in KINDS), {**entry, **dict.fromkeys(SUMS, 0)})
        for name in SUMS:
            total[name] += entry[name]

    def add_stage(self, stage: str, rows: int, busy_seconds: float, ask: Ask, **of: Any) -> float:
        """Records what a stage did; returns the price in US dollars. `of`: the kind of image, any by default, and `fetched_bytes`."""
        usd = busy_seconds * self.pricing(ask).usd_per_device_second
        kind = dict.fromkeys(KINDS, "") | {"stage": stage}
        self.add(kind | dict(zip(SUMS, (rows, busy_seconds, usd, 0.0, 0), strict=True)) | of)
        return usd

    def announce(self) -> None:
        """Writes the run's row unless it has one, so that a run that is killed after its first commit is known to the next."""
        if not self._is_announced:
            self.report("running")

    def is_due(self) -> bool:
        """Whether the rows are due for renewal."""
        return self.has_work and (not self._is_announced or self._clock() - self._reported >= REPORT_EVERY_SECONDS)

    def report(self, status: str) -> None:
        """Renews the run's row in `runs` and its rows in `ledger`; the last status comes after a ledger that agrees with it.

        So a run whose last ledger could not be written still says `running`, and the next run settles it from the tables.
        """
        self._bill()
        self._reported = self._clock()
        wall = self._reported - self._started
        row = {
            "run_id": self._run_id,
            "started_at": self._started_at,
            "wall_seconds": wall,
            "nodes": self._node_seconds / wall if wall else 0.0,
            "instance": self.instance.name,
            "usd_per_hour": self.instance.usd_per_hour,
            "busy_seconds": float(sum(work["busy_seconds"] for work in self._work.values())),
            "usd_busy": float(sum(work["usd_compute"] for work in self._work.values())),
            "usd_billed": self._usd_billed,
            "images": self.images,
            "errors": self.errors,
            "status": "running",
            "config": json.dumps(self._config, default=str),
            "planned": self.planned,
        }
        if status == "running" or not self._is_announced:
            self._workspace.put_run(row)
            self._is_announced = True
        self._workspace.put_ledger(self._run_id, [{**work, "run_id": self._run_id} for work in self._work.values()])
        if status != "running":
            self._workspace.put_run(row | {"status": status})

    def _instance_of(self, node: dict[str, float]) -> Instance:
        if self._is_settled:
            return self._instance
        prefix = "accelerator_type:"
        accelerators = [name.removeprefix(prefix) for name in node if name.startswith(prefix)]
        return self._prices.for_device((accelerators[0] if accelerators else "gpu") if node.get("GPU") else None)
