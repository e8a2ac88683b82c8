#!/usr/bin/env python3
"""RealRAG: build the database, mine reflective negatives, train the retrievers, generate with their references, judge the images."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("realrag"))
