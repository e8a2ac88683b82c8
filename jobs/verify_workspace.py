#!/usr/bin/env python3
"""Reads a whole workspace and says what is damaged; with --repair drops it, so that the next run makes it again."""

import sys
from dataclasses import dataclass

from engine.command import run_command
from engine.store import Workspace

SHOWN = 20


@dataclass(frozen=True)
class VerifyConfig:
    """What to verify."""

    workspace: str
    """Folder or s3://bucket/prefix of the workspace."""
    repair: bool = False
    """Drop unreadable files, damaged rows and all but one of doubled rows; no run may be writing."""


def main(config: VerifyConfig) -> None:
    """Prints what was read and what is damaged; exits with 1 when damage stays."""
    workspace = Workspace.open(config.workspace, create=False)
    report = workspace.verify(repair=config.repair)
    read = " and ".join(f"{count:,} rows of {name}" for name, count in report.rows.items())
    print(f"Read {read} in workspace {workspace.uri}.")
    for finding in report.findings[:SHOWN]:
        print(f"  {finding.table_name} {finding.place}: {finding.reason}")
    if len(report.findings) > SHOWN:
        print(f"  and {len(report.findings) - SHOWN:,} more")
    if not report.findings:
        print("Nothing is damaged.")
    elif report.repaired:
        print("The damage was removed; the next run makes these images again.")
    else:
        print("Run again with --repair to remove the damage.")
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run_command(VerifyConfig, main, str(__doc__)))
