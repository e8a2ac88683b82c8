"""Receipts of a fill on their way to the committer, and the counts of what it accepts."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.dataflow.accounts import Accounts
from engine.dataflow.fill_result import FillResult
from engine.dataflow.metrics import RunMetrics
from engine.dataflow.pool import Pool
from engine.dataflow.rows import error_row, to_tables
from engine.dataflow.worker import Report, WorkerJob
from engine.failures import RunFailed
from engine.progress import Progress
from engine.sources import Plan
from engine.store import Committer, Receipt, write_fragments
from engine.store.commit import TRANSIENT

if TYPE_CHECKING:
    from engine.dataflow.run import Run

ERRORS_COUNT_FROM = 200
"""Number of recipes from which the share of errors may stop a run; with fewer, half of them may fail."""


class Filling:
    """State and counts of one fill."""

    def __init__(
        self,
        run: "Run",
        accounts: Accounts,
        plan: Plan,
        job: WorkerJob,
        pool: Pool,
        committer: Committer,
        progress: Progress,
        result: FillResult,
    ):
        self._run, self._accounts, self._plan, self._job, self._pool = run, accounts, plan, job, pool
        self._committer, self._progress, self._result = committer, progress, result
        self.metrics = RunMetrics(run.run_id, progress.name)
        self._tried = self._failed = 0
        self._reason = ""

    def take(self, report: Report) -> None:
        """Hands receipts to the committer and counts what it accepts."""
        self.metrics.show(self._progress.total, self._pool.num_ready, self._committer.lag_seconds)
        self._take_killers()
        self._tried += report.rows
        self._failed += report.failed
        self._reason = report.reason or self._reason
        if not report.receipts:
            return
        accepted = [receipt for receipt in report.receipts if self._is_accepted(receipt)]
        # a report's work covers all its receipts; a refused receipt was still paid work
        self._count(accepted, report.work, report.rejected)

    def _is_accepted(self, receipt: Receipt) -> bool:
        with suppress(*TRANSIENT):  # the store failed; the next receipt or report tries again
            self._accounts.announce()
        refused = self._committer.refused
        again = self._committer.add(receipt)
        if again:
            self._pool.make_again(again)
        return self._committer.refused == refused

    def _count(self, receipts: list[Receipt], work: list[dict[str, Any]], rejected: int = 0) -> None:
        images, errors = (sum(one.rows for one in receipts if one.table_name == name) for name in ("images", "errors"))
        self._result.made += images
        rejected = min(rejected, errors)  # the rows of a refused receipt are missing
        self._result.errors += errors - rejected
        self._result.rejected += rejected
        accounts = self._accounts
        accounts.images += images
        accounts.errors += errors
        for entry in work:
            accounts.add(entry)
        usd = sum(entry["usd_compute"] + entry["usd_labels"] for entry in work)
        self._progress.add(images, errors, usd)
        self.metrics.count(images, errors, sum(entry["busy_seconds"] for entry in work), usd)

    def _take_killers(self) -> None:
        """Writes the error rows of recipes that killed every worker that made them."""
        killers, self._pool.killers = self._pool.killers, []
        if not killers:
            return
        self._reason = killers[-1][1]
        rows = [error_row(self._plan[index], index, reason) for index, reason in killers]
        run = self._run
        tables = to_tables(rows, self._accounts.pricing(self._pool.ask), run.run_id, "", self._job.added)
        receipt = write_fragments(run.workspace.uri, "errors", tables.errors, tables.error_indices)
        if self._is_accepted(receipt):
            self._count([receipt], tables.work)

    def check_errors(self, most: float) -> None:
        """Raises RunFailed as soon as the reports of the workers show that too many recipes fail.

        Images of earlier runs count, so a few recipes that fail each time do not stop a run that makes nothing else.
        """
        if self._tried >= ERRORS_COUNT_FROM:
            self._compare(self._failed, self._tried, most)

    def check_all_errors(self, most: float) -> None:
        """The same check at the end; of few recipes, half may fail."""
        tried = self._result.made + self._result.errors + self._result.rejected
        few = tried + self._result.present < ERRORS_COUNT_FROM
        self._compare(self._result.errors, tried, max(most, 0.5) if few else most)

    def _compare(self, failed: int, tried: int, most: float) -> None:
        if failed > most * (tried + self._result.present):
            raise RunFailed(
                f"{failed:,} of {tried:,} recipes failed, more than {most:.0%}, the last of them with: {self._reason}; fix "
                "that, or allow more with --max-errors"
            )
