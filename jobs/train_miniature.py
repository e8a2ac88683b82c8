#!/usr/bin/env python3
"""Train and measure the miniature world's models: clip, judge, generator, reference, evaluate."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("train-miniature"))
