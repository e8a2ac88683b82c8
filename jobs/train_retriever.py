#!/usr/bin/env python3
"""Train retrievers on the mistakes of a generator: build the database, mine negatives, train heads, evaluate retrieval."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("train-retriever"))
