#!/usr/bin/env python3
"""GenBench's Figures 4, 5, 6, 9, 10 and section 12.2: which metric tells what a linear probe will reach."""

import sys

from engine.command import run_command
from engine.studies.genbench.metrics import MetricsConfig, run_metrics


def main(config: MetricsConfig) -> None:
    """Runs the study and prints its report."""
    run_metrics(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(MetricsConfig, main, str(__doc__)))
