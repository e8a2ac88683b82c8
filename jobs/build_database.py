#!/usr/bin/env python3
"""RealRAG's database: the training images of data sets into the table, embedded and indexed; again to add more."""

import sys

from engine.command import run_command
from engine.studies.realrag.negatives import DatabaseConfig, build_database


def main(config: DatabaseConfig) -> None:
    """Fills the database and prints what is in it."""
    report = build_database(config)
    print(
        f"{report.planned:,} images asked for: {report.made:,} added, {report.embedded:,} embedded anew, "
        f"{report.errors:,} unreadable, the others were there. Workspace: {config.workspace}"
    )
    for row in report.duplicates:
        print(
            f"  {row['datasets']}: {row['pictures']} pictures stand for {row['images']} images, and {row['of several classes']} "
            "of these pictures have several classes; retrieval and mining see each once"
        )


if __name__ == "__main__":
    sys.exit(run_command(DatabaseConfig, main, str(__doc__)))
