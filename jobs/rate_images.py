#!/usr/bin/env python3
"""RealRAG's human study: writes blinded rating sheets of a workspace's images; with --analyse reads the answers and prints the table."""

import sys

from engine.command import run_command
from engine.studies.rating import RatingConfig, run_rating


def main(config: RatingConfig) -> None:
    """Writes the sheets, or prints the report of the answers."""
    report = run_rating(config)
    if report is None:
        print(f"Sheets: {(config.folder / 'sheets').resolve()}")
        print("Each rater looks at NAME.html and fills in NAME.csv; then run again with --analyse.")
    else:
        report.print()
        print(f"\nReport: {(config.report / 'index.html').resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(RatingConfig, main, str(__doc__)))
