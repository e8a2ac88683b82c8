"""The shape of a study: it checks its configuration, fills a workspace phase by phase, and reports on what is there."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.reports import Report
from engine.store import Workspace
from engine.studies.config import Parts

if TYPE_CHECKING:
    from engine.dataflow.run import Run

Phase = tuple[str, "Callable[[Run], Any]"]
"""Name of a phase and the function that does its work in an open run; what an earlier run has done is skipped."""


class Study(Parts, ABC):
    """A study; its configuration has a folder for the `report`."""

    @abstractmethod
    def phases(self) -> Iterator[Phase]:
        """The phases in their order. A phase may depend on what the phases before it have put into the workspace."""

    @abstractmethod
    def build_report(self, workspace: Workspace) -> Report:
        """Scores of everything that the workspace holds of this study."""


def run_study(study: Study) -> Report:
    """Runs the phases of a study, scores and prices what came of them, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to fix it.
        RunFailed: too many recipes fail.
    """
    from engine.dataflow.cluster import RayConnection

    study.check()
    config: Any = study.config
    workspace = Workspace.open(config.workspace)
    with RayConnection() as connection, study.run(workspace, connection) as run:
        for _, phase in study.phases():
            phase(run)
    report = study.build_report(workspace)
    report.write(Path(config.report))
    return report
