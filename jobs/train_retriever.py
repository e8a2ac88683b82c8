#!/usr/bin/env python3
"""Trains retrievers on the mistakes of a generator: builds the database, mines negatives, trains heads, evaluates retrieval."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("train-retriever"))
