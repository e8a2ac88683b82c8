"""`imagefoundry check-safety`: score the images of a workspace by a safety checker."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class SafetyConfig:
    """The images and their checker."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    checker: str = "nsfw"
    """Name (`nsfw`, `stable-diffusion`), Hub id (owner/name or owner/name@revision) or folder of the checker, safetensors alone."""
    flag: tuple[str, ...] = ()
    """Labels of the checker that count as unsafe; those of a named checker are known."""
    where: str = ""
    """SQL condition on the columns of `images`, such as "source = 'generative'"; all images if not given."""
    batch_size: int = 16
    """Images per batch."""
    price_book: Path | None = None
    """Price book (TOML); the shipped one if not given."""
    instance: str | None = None
    """Instance of the price book that the machines are; chosen by the cluster's accelerator if not given."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the checker: `auto` takes GPUs if the cluster has them or can add them."""


@dataclass(frozen=True)
class Checked:
    """The outcome."""

    images: int
    """Images that were asked for."""
    checked: int
    """Images that were checked now; the rest had a score, or cannot be scored."""
    flagged: int
    """Images of those asked for with a score of 0.5 or more."""
    checker: str
    """Name with the revision."""
    column: str
    """Column of the scores."""


def check_safety(config: SafetyConfig) -> Checked:
    """Scores the images that lack a score of this checker.

    Raises ValueError if there is no workspace, the checker is unknown or its labels are not known, or the condition is invalid.
    """
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.safety import SafetyCheck
    from engine.models.safety import describe_checker
    from engine.store import Workspace
    from engine.store.conditions import ids_where

    if config.batch_size < 1:
        raise ValueError(f"batch size is {config.batch_size}; give 1 or more")
    workspace = Workspace.open(config.workspace, create=False)
    ids: list[str] = ids_where(workspace, config.where).to_pylist()
    facts = describe_checker(config.checker, config.flag)
    stage = SafetyCheck(facts, config.batch_size)
    with Run(
        workspace, PriceBook.load(config.price_book), config.instance, asdict(config), device=config.device
    ) as run:
        checked = run.apply(stage, ids)
    own = f"({config.where}) AND " if config.where else ""
    flagged = workspace.count(f"{own}{facts.column} >= 0.5") if ids else 0
    return Checked(len(ids), checked, flagged, facts.name, facts.column)
