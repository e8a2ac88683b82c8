#!/usr/bin/env python3
"""Looks at a data set or a pool before it is used: layout, splits, classes, files that are left out, broken images, duplicates."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("check"))
