#!/usr/bin/env python3
"""RealRAG: builds the database, mines reflective negatives, trains the retrievers, draws with their references and judges all of it."""

import sys

from engine.command import run_command
from engine.studies.realrag.config import RealRagConfig
from engine.studies.realrag.study import run_realrag


def main(config: RealRagConfig) -> None:
    """Runs the study and prints its report."""
    run_realrag(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(RealRagConfig, main, str(__doc__)))
