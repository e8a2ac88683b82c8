#!/usr/bin/env python3
"""Looks at a data set or a pool before it is used: layout, splits, classes, files that are left out, broken images, duplicates."""

import sys

from engine.command import run_command
from engine.studies.check_data import CheckConfig, check_data


def main(config: CheckConfig) -> None:
    """Checks the data and prints the account."""
    check_data(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(CheckConfig, main, str(__doc__)))
