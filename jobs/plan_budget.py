#!/usr/bin/env python3
"""Spends a budget: chooses source and shots for each class from a pilot, buys them, and compares with each single source."""

import sys

from engine.command import run_command
from engine.studies.genbench.budget import BudgetConfig, run_budget


def main(config: BudgetConfig) -> None:
    """Runs the study and prints its report."""
    run_budget(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(BudgetConfig, main, str(__doc__)))
