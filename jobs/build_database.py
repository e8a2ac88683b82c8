#!/usr/bin/env python3
"""RealRAG's database: add the training images of data sets to the workspace, embedded and indexed; run it again to add more."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("build-database"))
