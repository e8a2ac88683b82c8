#!/usr/bin/env python3
"""A corpus of web captions from parquet tables (LAION and its like), to retrieve pictures from; run it again to go on or to add files."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("build-corpus"))
