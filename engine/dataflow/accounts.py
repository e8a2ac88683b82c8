"""Accounts of a run: its work and its bill, as rows of `runs` and `ledger` that are renewed while the run goes on."""

import json
import time
from collections.abc import Callable
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
        self._nodes: float | None = None
        self._node_seconds = self._usd_billed = 0.0
        self._work: dict[tuple[str, ...], dict[str, Any]] = {}
        self.images = 0
        self.errors = 0
        self.planned: int | None = None
        """Images to make, as far as is known; None if the run fills no plan."""

    @property
    def instance(self) -> Instance:
        """The priced instance: the configured one, or the one with the cluster's GPUs once there are any."""
        return self._instance

    @property
    def has_work(self) -> bool:
        """Whether there is any work to record."""
        return bool(self._work)

    def pricing(self, ask: Ask) -> Pricing:
        """Prices for what an actor holds."""
        return Pricing(
            usd_per_device_second(self.instance, num_gpus=ask.num_gpus, num_cpus=ask.priced_cpus),
            {kind.name: kind.usd_per_label(self._prices) for kind in kinds.SOURCE_KINDS},
        )

    def sample(self, cluster: dict[str, float]) -> None:
        """Records the cluster's size, billed from the last sample on, or from the run's start."""
        if self._nodes is not None:
            self._bill()
        if not self._is_settled and cluster.get("GPU"):
            self._instance, self._is_settled = self._find_instance(cluster), True
        is_first = self._nodes is None
        self._nodes = cluster_nodes(cluster, self.instance.num_cpus, self.instance.num_gpus)
        if is_first:
            self._bill()

    def _bill(self) -> None:
        """Bills the nodes of the last sample up to now, at the price of the instance at that time."""
        now = self._clock()
        nodes, seconds = self._nodes or 0.0, now - self._sampled
        self._node_seconds += nodes * seconds
        self._usd_billed += billed_usd(self.instance, nodes, seconds)
        self._sampled = now

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

    def is_due(self) -> bool:
        """Whether the rows are due for renewal."""
        return self.has_work and self._clock() - self._reported >= REPORT_EVERY_SECONDS

    def report(self, status: str) -> None:
        """Renews the run's row in `runs` and its rows in `ledger`."""
        self._bill()
        self._reported = self._clock()
        wall = self._reported - self._started
        self._workspace.put_run(
            {
                "run_id": self._run_id,
                "started_at": self._started_at,
                "wall_seconds": wall,
                "nodes": self._node_seconds / wall if wall else 0.0,
                "instance": self.instance.name,
                "usd_per_hour": self.instance.usd_per_hour,
                "busy_seconds": float(sum(row["busy_seconds"] for row in self._work.values())),
                "usd_busy": float(sum(row["usd_compute"] for row in self._work.values())),
                "usd_billed": self._usd_billed,
                "images": self.images,
                "errors": self.errors,
                "status": status,
                "config": json.dumps(self._config, default=str),
                "planned": self.planned,
            }
        )
        rows = [{**row, "run_id": self._run_id} for row in self._work.values()]
        self._workspace.put_ledger(self._run_id, rows)

    def _find_instance(self, cluster: dict[str, float]) -> Instance:
        prefix = "accelerator_type:"
        accelerators = [name.removeprefix(prefix) for name in cluster if name.startswith(prefix)]
        return self._prices.for_device(accelerators[0] if accelerators else "gpu")
