"""`/healthz` and `/metrics`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from engine.serving.service import Service


def router(service: Service) -> APIRouter:
    """The routes over a service."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counts of every generator in Prometheus' text format: queue wait, batch sizes, busy seconds, step time, dollars."""
        return to_prometheus(await service.metrics())

    return routes


METRICS = (
    ("waiting", "gauge", "Images that wait in the queue."),
    ("batches", "counter", "Batches made."),
    ("images", "counter", "Images made."),
    ("errors", "counter", "Images that failed."),
    ("cancelled", "counter", "Images that nobody wanted any more."),
    ("busy_seconds", "counter", "Seconds that the device was busy."),
    ("wait_seconds", "counter", "Seconds that images waited in the queue."),
    ("steps", "counter", "Sampler steps."),
    ("step_seconds", "counter", "Seconds of sampler steps."),
    ("usd", "counter", "US dollars of the busy seconds."),
    ("up_seconds", "counter", "Seconds since the start."),
)


def to_prometheus(counts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Prometheus' text of generator → counts of each process that answered."""
    lines: list[str] = []
    each = [process for processes in counts.values() for process in processes]
    for name, kind, text in METRICS:
        full = f"imagefoundry_{name}" + ("_total" if kind == "counter" else "")
        lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{{{_labels(process)}}} {process[name]}" for process in each]
    full = "imagefoundry_batches_by_size_total"
    lines += [f"# HELP {full} Batches by their number of images.", f"# TYPE {full} counter"]
    for process in each:
        sizes = sorted(process["batch_sizes"].items())
        lines += [f'{full}{{{_labels(process)},size="{size}"}} {count}' for size, count in sizes]
    return "\n".join(lines) + "\n"


def _labels(process: Mapping[str, Any]) -> str:
    name = str(process["generator"]).replace("\\", "").replace('"', "")
    return f'generator="{name}",process="{process["process"]}"'
