"""What a run tells Prometheus, through the endpoint that Ray has on every node; `deploy/grafana.json` shows it."""

from typing import Any

COUNTERS = {
    "imagefoundry_images": "Images written.",
    "imagefoundry_errors": "Recipes that failed, and images that a stage rejected.",
    "imagefoundry_busy_seconds": "Seconds that devices were busy with these rows.",
    "imagefoundry_usd": "Price of these seconds and of labels, in US dollars.",
}
"""Name → description of what only grows; Ray puts `ray_` before a name, and `_total` behind that of a counter."""
GAUGES = {
    "imagefoundry_planned": "Images to make, as far as is known.",
    "imagefoundry_workers": "Workers that have loaded their models.",
    "imagefoundry_commit_lag_seconds": "Age of the oldest written rows that no commit has made visible.",
}
"""Name → description of what rises and falls."""
TAGS = ("run_id", "plan")


class RunMetrics:
    """The metrics of one fill. Ray must be connected."""

    def __init__(self, run_id: str, plan: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tags = dict(zip(TAGS, (run_id, plan), strict=True))
        self._counters: dict[str, Any] = {name: Counter(name, what, TAGS) for name, what in COUNTERS.items()}
        self._gauges: dict[str, Any] = {name: Gauge(name, what, TAGS) for name, what in GAUGES.items()}

    def count(self, images: int, errors: int, busy_seconds: float, usd: float) -> None:
        """Adds what a report accounts for."""
        for name, value in zip(COUNTERS, (images, errors, busy_seconds, usd), strict=True):
            if value > 0:  # Ray's counters refuse 0
                self._counters[name].inc(value, self._tags)

    def show(self, planned: int, workers: int, commit_lag_seconds: float) -> None:
        """Sets what holds now."""
        for name, value in zip(GAUGES, (planned, workers, commit_lag_seconds), strict=True):
            self._gauges[name].set(value, self._tags)
