#!/usr/bin/env python3
"""GenBench Table 2: CLER of every prompt strategy at 20 shots, and the best strategy and source for each class."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("prompts"))
