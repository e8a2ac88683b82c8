"""Unused files and lost images of a study: account of its data, errors by reason, and the end of a run that lost
too many."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.catalog import Dataset
from engine.catalog.account import NAMES, Account
from engine.catalog.corpus import key_name
from engine.failures import RunFailed
from engine.sources import OriginalPlan, Plan, RetrievalPlan, plan_ids
from engine.sources.retrieval import pool_account

if TYPE_CHECKING:
    from engine.store import Workspace

FEW = 200
"""Number of recipes of a plan below which half of them may fail."""


def account_rows(
    datasets: Iterable[Dataset], pool: str = "", splits: Sequence[str] = ("train", "test")
) -> list[dict[str, Any]]:
    """The table `files`: one row per data set, split, verdict and reason, for every input file of a run.

    Args:
        datasets: each is accounted for with these splits; a split that is not read is counted by its files.
        pool: location of the captioned pool; none if empty.
        splits: `train` and `test`, or one of them.
    """
    return [
        {"dataset": name, "split": split, **row}
        for name, accounts in _accounts(datasets, pool, splits)
        for split, account in accounts.items()
        for row in account.rows()
    ]


def account_lines(
    datasets: Iterable[Dataset], pool: str = "", splits: Sequence[str] = ("train", "test")
) -> Iterable[str]:
    """One line per data set and for the pool, from the rows of `account_rows`."""
    for name, accounts in _accounts(datasets, pool, splits):
        whole = Account()
        for account in accounts.values():
            whole.merge(account)
        stands_in = ", validation stands in for test" if "validation" in accounts else ""
        yield f"{name}: {whole.line()}{stands_in}"


def _accounts(
    datasets: Iterable[Dataset], pool: str, splits: Sequence[str]
) -> Iterable[tuple[str, Mapping[str, Account]]]:
    for dataset in datasets:
        yield dataset.name, dataset.accounts([split for split in splits if split == "test" or not dataset.test_only])
    if pool:
        yield os.path.basename(pool.rstrip("/")).removeprefix("world:"), pool_account(pool)


def group_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table `errors`: equal reasons are counted together, whatever file they name."""
    groups: dict[tuple[str, str, str, str], list[tuple[str, str]]] = {}
    for row in errors:
        name = key_name(row["key"]) if row.get("key") else ""
        reason = row["reason"].removeprefix(f"{name}: ") if name else row["reason"]
        groups.setdefault((row["stage"], row["source"], row["dataset"], reason), []).append((row["id"], name))
    return [
        {
            "stage": stage,
            "source": source,
            "dataset": dataset,
            "reason": reason,
            "count": len(found),
            "example_id": min(found)[0],
            "examples": ", ".join(name for _, name in sorted(found)[:NAMES] if name),
        }
        for (stage, source, dataset, reason), found in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def lost_rows(plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Rows of the same table with stage `index`: images that no plan can name, because they lack a label or caption."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for plan in plans:
        if isinstance(plan, OriginalPlan | RetrievalPlan):
            name = plan.dataset.name if isinstance(plan, OriginalPlan) else plan.corpus
            for reason, tally in plan.account.lost():
                found[name, plan.split, reason] = {
                    "stage": "index",
                    "source": plan.source,
                    "dataset": name,
                    "reason": reason,
                    "count": tally.count,
                    "example_id": "",
                    "examples": ", ".join(tally.names),
                }
    return sorted(found.values(), key=lambda row: -row["count"])


def check_losses(
    workspace: "Workspace", plans: Iterable[Plan], max_errors: float, report: str, rejected_by: Iterable[str] = ()
) -> None:
    """Ends a run if all images of one plan failed, or more than the given share (half, if there are few).

    Args:
        workspace: holds the images and the errors.
        plans: each is checked alone.
        max_errors: share of a plan's images that may fail.
        report: place of all reasons, for the message.
        rejected_by: names of stages that reject images; a rejected image is neither missing nor a failure.

    Raises:
        RunFailed: too many images failed; the message gives the reason of one of them.
    """
    errors = workspace.errors()
    if not errors.num_rows:
        return
    reasons = dict(zip(errors.column("id").to_pylist(), errors.column("reason").to_pylist(), strict=True))
    done = workspace.done_ids(list(rejected_by))
    for plan in plans:
        ids = plan_ids(plan)
        is_done = done.contains(ids)
        lost = [name for name, there in zip(ids, is_done, strict=True) if not there and name in reasons]
        tried = int(is_done.sum()) + len(lost)
        allowed = (max(max_errors, 0.5) if tried < FEW else max_errors) * tried
        if lost and (len(lost) == tried or len(lost) > allowed):
            recipe = plan[0]
            what = f"{recipe.split} {recipe.source}" if recipe.split else recipe.source
            raise RunFailed(
                f"{len(lost):,} of {tried:,} {what} images of {recipe.dataset} failed, one of them with: {reasons[lost[0]]}; "
                f"all reasons are in {report}"
            )
