"""`imagefoundry estimate`: hours, dollars and gigabytes of a job, from what a pilot in a workspace took."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from engine.store import Workspace

FEW_IMAGES = 32
"""With fewer images the first batch, which is slow, decides."""
SAMPLE = 256
"""Images whose bytes are counted."""
OTHER_BYTES = 300
"""A row's texts and numbers, compressed (docs/scale.md: 1,142 bytes per row, of which 16 x 16 images are about 800)."""


@dataclass(frozen=True)
class EstimateConfig:
    """The job to estimate, and the pilot."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Workspace with images of the same generator, settings and machines as the job's: a pilot of some hundred is enough."""
    images: int
    """Images of the job."""
    generator: str = ""
    """Generator of the job; may be left out if the workspace has images of one generator alone."""
    nodes: float = 1.0
    """Nodes of the job, each the priced instance of the pilot."""


@dataclass(frozen=True)
class Estimate:
    """What the job will take. `busy`: if every device is busy all the time; `billed`: at the pilot's utilisation, its starts included."""

    generator: str
    instance: str
    pilot_images: int
    """Images of the pilot."""
    hours_busy: float
    hours_billed: float
    usd_busy: float
    usd_billed: float
    gigabytes: float
    """10^9 bytes of the images and their other columns."""
    images: int
    nodes: float

    def print(self) -> None:
        """Prints four lines."""
        from engine.store import compaction

        print(
            f"{self.images:,} images of {self.generator} on {self.nodes:g} x {self.instance}, from {self.pilot_images:,} images in the "
            "workspace:"
        )
        print(
            f"  {self.hours_busy:,.2f} hours if every device is always busy, {self.hours_billed:,.2f} as busy as in the pilot"
        )
        print(f"  {self.usd_busy:,.2f} to {self.usd_billed:,.2f} USD")
        print(f"  {self.gigabytes:,.2f} GB, {compaction.ROOM * self.gigabytes:,.2f} GB while files are merged")


def estimate(config: EstimateConfig) -> Estimate:
    """Works out the job from the pilot's runs, linearly in the number of images.

    Runs on other instances than the newest's are left out. Raises ValueError if there is no pilot for it: no workspace, too few images
    of the generator, or runs that made other images as well.
    """
    from engine.store import Workspace
    from engine.store.rows import quote

    if config.images < 1 or config.nodes <= 0:
        raise ValueError(f"images is {config.images} and nodes {config.nodes:g}; give numbers above 0")
    workspace = Workspace.open(config.workspace, create=False)
    generator = config.generator or _only_generator(workspace)
    where = f"generator = {quote(generator)}"
    num = workspace.count(where)
    if num < FEW_IMAGES:
        raise ValueError(
            f"workspace {workspace.uri} has {num} images of {generator}, too few to tell; make {FEW_IMAGES} or more, as a pilot"
        )
    runs = _runs_of(workspace, where)
    if not runs:
        raise ValueError(
            f"workspace {workspace.uri} does not say which run made its images; make a pilot in one of its own"
        )
    newest = max(runs, key=lambda run: run["started_at"])
    instance, usd_per_hour = newest["instance"], newest["usd_per_hour"]
    runs = [run for run in runs if (run["instance"], run["usd_per_hour"]) == (instance, usd_per_hour)]
    made = sum(run["images"] for run in runs)
    usd_busy = sum(run["usd_busy"] for run in runs) / made * config.images
    node_hours = sum(run["nodes"] * run["wall_seconds"] for run in runs) / made * config.images / 3600
    return Estimate(
        generator=generator,
        instance=instance,
        pilot_images=made,
        hours_busy=usd_busy / usd_per_hour / config.nodes,
        hours_billed=node_hours / config.nodes,
        usd_busy=usd_busy,
        usd_billed=node_hours * usd_per_hour,
        gigabytes=_bytes_per_image(workspace, where) * config.images / 1e9,
        images=config.images,
        nodes=config.nodes,
    )


def _only_generator(workspace: "Workspace") -> str:
    names: set[str] = set()
    for batch in workspace.scan(["generator"], "generator != ''"):
        names.update(batch.column("generator").unique().to_pylist())
    if len(names) != 1:
        found = f"images of {', '.join(sorted(names))}" if names else "no generated images"
        fix = "name one with --generator" if names else "make some, as a pilot"
        raise ValueError(f"workspace {workspace.uri} has {found}; {fix}")
    return names.pop()


def _runs_of(workspace: "Workspace", where: str) -> list[dict[str, Any]]:
    """Rows of the runs that made these images. Raises ValueError if they made images of other kinds as well."""
    mine = _count_by_run(workspace, where)
    every = _count_by_run(workspace, None)
    runs = [run for run in workspace.runs().to_pylist() if run["run_id"] in mine]
    for run in runs:
        others = every[run["run_id"]] - mine[run["run_id"]]
        if others > mine[run["run_id"]] / 10:
            raise ValueError(
                f"run {run['run_id']} also made {others:,} images of other kinds, so its hours are not those of one generator; make a "
                "pilot of the job alone, in a workspace of its own"
            )
    return [run | {"images": mine[run["run_id"]]} for run in runs]


def _count_by_run(workspace: "Workspace", where: str | None) -> dict[str, int]:
    counts: dict[str, int] = {}
    for batch in workspace.scan(["run_id"], where):
        for entry in batch.column("run_id").value_counts().to_pylist():
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
    return counts


def _bytes_per_image(workspace: "Workspace", where: str) -> float:
    """Mean bytes of the encoded images of a sample, and of a row's other columns in the table's files."""
    from engine.store.conditions import ids_where

    ids = ids_where(workspace, where).slice(0, SAMPLE).to_pylist()
    sizes = [len(one) for one in workspace.fetch(ids, ["image"])["image"].to_pylist()]
    vectors = sum(4 * dimension for dimension in workspace.embedding_columns().values())
    return sum(sizes) / len(sizes) + vectors + OTHER_BYTES
