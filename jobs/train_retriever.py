#!/usr/bin/env python3
"""Trains retrievers on the mistakes of a generator: builds the database, mines negatives, trains heads, evaluates retrieval."""

import sys

from engine.command import run_command
from engine.studies.realrag.config import TrainRetrieverConfig
from engine.studies.realrag.retrievers import train_retriever


def main(config: TrainRetrieverConfig) -> None:
    """Runs the study and prints its report."""
    train_retriever(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(TrainRetrieverConfig, main, str(__doc__)))
