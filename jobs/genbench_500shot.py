#!/usr/bin/env python3
"""GenBench at up to 500 shots: makes generative, retrieval and original images, scores and prices them (GenBench Fig. 3)."""

import sys

from engine.command import run_command
from engine.studies.genbench.tradeoff import GenBenchConfig, run_genbench


def main(config: GenBenchConfig) -> None:
    """Runs the study and prints its report."""
    run_genbench(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(GenBenchConfig, main, str(__doc__)))
