#!/usr/bin/env python3
"""What a budget should buy: source and shots for each class, decided from a pilot, then bought and compared with each single source."""

import sys

from engine.command import run_command
from engine.studies.genbench.budget import BudgetConfig, run_budget


def main(config: BudgetConfig) -> None:
    """Runs the study and prints its report."""
    run_budget(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(BudgetConfig, main, str(__doc__)))
