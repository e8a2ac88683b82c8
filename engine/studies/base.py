"""The structure of a study: it checks its configuration, fills a workspace in phases, and reports on its content."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.reports import Report
from engine.sources import Plan
from engine.store import Workspace
from engine.studies.config import Parts
from engine.studies.kept_reports import keep_report
from engine.studies.losses import account_lines, account_rows, check_losses

if TYPE_CHECKING:
    from engine.dataflow.run import Run

Phase = tuple[str, "Callable[[Run], Any]"]
"""Name of a phase and the function that does its work in an open run; work of earlier runs is skipped."""


class Study(Parts, ABC):
    """A study; its configuration has the folder of the `report`."""

    name: ClassVar[str] = ""
    """Name under which its results are kept in the workspace, the same in every release; that of the class if empty."""

    @abstractmethod
    def phases(self) -> Iterator[Phase]:
        """The phases in order. A phase may depend on the results of earlier phases in the workspace."""

    @abstractmethod
    def every_plan(self) -> list[Plan]:
        """All plans of the study, test images included."""

    @property
    def read_splits(self) -> tuple[str, ...]:
        """Splits of the data sets that are read."""
        return "train", "test"

    @property
    def searched_pool(self) -> str:
        """Captioned pool that is searched; empty for none."""
        return ""

    def files(self) -> list[dict[str, Any]]:
        """Rows of the table `files`: every file of the data sets and the pool, used, ignored or refused."""
        return account_rows(self.datasets, self.searched_pool, self.read_splits)

    @abstractmethod
    def build_report(self, workspace: Workspace) -> Report:
        """Scores of everything in the workspace that belongs to this study."""


def run_study(study: Study) -> Report:
    """Runs the phases of a study, scores and prices the results, and writes the report.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to fix it.
        RunFailed: the run could not continue, or lost all images of a kind or too many; the report shows the rest.
    """
    from engine.dataflow.cluster import RayConnection

    study.check()
    config: Any = study.config
    for line in account_lines(study.datasets, study.searched_pool, study.read_splits):
        print(line, file=sys.stderr)
    workspace = Workspace.open(config.workspace)
    with RayConnection() as connection, study.run(workspace, connection) as run:
        for _, phase in study.phases():
            phase(run)
    report = study.build_report(workspace)
    page = report.write(Path(config.report))
    keep_report(workspace, study.name or type(study).__name__, config, report)
    check_losses(workspace, study.every_plan(), config.max_errors, str(page), run.rejected_by)
    return report
