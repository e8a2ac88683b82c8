"""`imagefoundry verify`: read a whole workspace, list what is damaged, repair it if asked to."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from engine.store import VerifyReport


@dataclass(frozen=True)
class VerifyConfig:
    """The workspace to verify."""

    workspace: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORKSPACE")]
    """Folder or s3://bucket/prefix of the workspace."""
    repair: bool = False
    """Remove unreadable files, damaged rows and all but one of duplicate rows; no run may be writing."""
    processes: int = 0
    """Processes that read at once; 0 for one per processor."""


def verify(config: VerifyConfig) -> "VerifyReport":
    """Reads all of `images` and `errors`: files, ids against recipes, pixels against hashes, norms of embeddings.

    Raises ValueError if there is no workspace, or if `repair` is set and a run is writing.
    """
    from engine.cpus import usable_cpus
    from engine.store import Workspace

    workspace = Workspace.open(config.workspace, create=False)
    return workspace.verify(repair=config.repair, num_processes=config.processes or usable_cpus())
