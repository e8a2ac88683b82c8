#!/usr/bin/env python3
"""Check a data set or a pool before it is used: layout, splits, classes, files that are left out, duplicates."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("check"))
