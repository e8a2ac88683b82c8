#!/usr/bin/env python3
"""Spend a budget: choose a source and a number of shots per class from a pilot, buy the images, compare with each single source."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("budget"))
