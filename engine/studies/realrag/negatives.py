"""RealRAG's data: the database of real images, and the real images nearest to each generated one (section 3.1)."""

import sys
from dataclasses import dataclass
from typing import Any

from engine.models import generator_spec
from engine.models.generators import adapter_of
from engine.models.registry import encoder_source
from engine.retriever.database import Database, DatabasePlan, duplicate_counts, duplicates
from engine.sources import ConcatenatedPlan, CorpusMaker, GenerativePlan, GeneratorMaker, plan_ids
from engine.store import IdSet, Workspace
from engine.studies.config import Parts, Settings, load_datasets
from engine.studies.losses import account_lines, check_losses


@dataclass(frozen=True, kw_only=True)
class DatabaseConfig(Settings):
    """Real images of the database."""

    first: int = 0
    """First training image of each class, so that one half can be mined and the other used for retrieval."""
    shots: int | None = None
    """Training images per class; all images from the first on if not given."""
    seed: int = 0
    """Seed of the order of a class's images, as in GenBench's original data."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        if self.first < 0 or self.seed < 0:
            raise ValueError(f"first is {self.first} and seed is {self.seed}; give 0 or more for both")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots {self.shots} is not a number of images; give 1 or more")
        encoder_source(self.encoder)

    def plans(self) -> list[DatabasePlan]:
        """One plan per data set. Raises ValueError if a data set does not exist or has no images in the range."""
        return [DatabasePlan(dataset, self.first, self.shots, self.seed) for dataset in load_datasets(self.datasets)]


@dataclass(frozen=True, kw_only=True)
class MineConfig(DatabaseConfig):
    """Generated images to mine negatives for, the number of negatives, and the database to search."""

    generator: str = "mini"
    """Registry name (see `imagefoundry models`) or diffusers folder."""
    strategy: str = "simple_template"
    """Prompt strategy; `simple_template` is "a photo of [CLASS NAME]"."""
    images: int = 20
    """Generated images per class."""
    generator_seed: int = 0
    """Seed of the generated images."""
    batch_size: int | None = None
    """Images that the generator makes at once; the generator's own default if not given."""
    k: int = 1
    """Negatives per generated image."""
    mask: bool = True
    """Skip images of the generated image's own class."""

    def check(self) -> None:
        """Raises ValueError if the configuration is invalid."""
        super().check()
        for name, value in (("images", self.images), ("k", self.k), ("batch size", self.batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more")
        if self.generator_seed < 0:
            raise ValueError(f"generator seed {self.generator_seed} is negative; give 0 or more")


@dataclass(frozen=True)
class DatabaseReport:
    """Result of `build_database`."""

    planned: int
    made: int
    errors: int
    embedded: int
    """Images of earlier runs that were embedded by this encoder now."""
    duplicates: list[dict[str, object]]
    """Pictures that occur more than once in the database, by the data sets that share them."""


def build_database(config: DatabaseConfig) -> DatabaseReport:
    """Reads, embeds and indexes the training images that the workspace lacks.

    Raises:
        ValueError: the input is invalid; one sentence says how to fix it.
    """
    from engine.dataflow.cluster import RayConnection
    from engine.dataflow.stages import Embed

    parts = Parts(config)
    parts.check()
    plans = config.plans()
    for line in account_lines(parts.datasets, splits=("train",)):
        print(line, file=sys.stderr)
    workspace = Workspace.open(config.workspace)
    encoder = parts.encoder
    corpora = {plan.dataset.name: plan.dataset.location for plan in plans}
    with RayConnection() as connection, parts.run(workspace, connection) as run:
        filled = run.fill("database", ConcatenatedPlan(plans), CorpusMaker(corpora), [Embed.of(encoder)])
    if filled.made or filled.updated:
        with workspace.lock(f"{run.run_id}-index"):
            workspace.build_indices(encoder.name)
    check_losses(workspace, plans, config.max_errors, f"the table `errors` of {workspace.uri}")
    ids = IdSet([plan.ids() for plan in plans])
    return DatabaseReport(
        filled.planned, filled.made, filled.errors, filled.updated, duplicate_counts(duplicates(workspace, among=ids))
    )


def mine_negatives(config: MineConfig) -> dict[str, Any]:
    """Generates the missing images and mines those that have no negatives in this database yet.

    Returns the database's `name`, its `images` and `duplicates`, and the numbers of generated images `mined` now and
    `present` before. Raises ValueError if the input is invalid.
    """
    from engine.dataflow.cluster import RayConnection
    from engine.dataflow.stages import Embed
    from engine.retriever.ray_mining import mine_missing

    parts = Parts(config)
    parts.check()
    plans = config.plans()
    spec = generator_spec(config.generator)
    if adapter_of(spec.pipeline).needs_reference:
        raise ValueError(f"generator {spec.name} requires a reference image; choose another generator")
    drawn = ConcatenatedPlan(
        [GenerativePlan(plan.dataset, spec, config.strategy, config.images, config.generator_seed) for plan in plans]
    )
    workspace = Workspace.open(config.workspace)
    encoder = parts.encoder
    size = config.batch_size or spec.batch_size
    wanted = plan_ids(drawn)
    database = Database(workspace, encoder.name, [one for plan in plans for one in plan.ids()])
    with RayConnection() as connection, parts.run(workspace, connection) as run:
        maker = GeneratorMaker(spec, size, spec.num_gpus, needs_gpu=spec.needs_gpu)
        run.fill("generate", drawn, maker, [Embed.of(encoder)])
        mined = mine_missing(run, wanted, database, k=config.k, mask=config.mask)
    return {
        "name": database.name,
        "images": len(database),
        "duplicates": database.num_duplicates,
        "mined": mined,
        "present": int(workspace.done_ids().contains(wanted).sum()) - mined,
    }
