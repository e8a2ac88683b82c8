#!/usr/bin/env python3
"""Retrieve and fetch the pictures of a corpus that are nearest to the classes of data sets, politely (GenBench section 2.2)."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("fetch"))
