#!/usr/bin/env python3
"""Read a whole workspace and list what is damaged; with --repair, remove it, so that the next run makes it again."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("verify"))
