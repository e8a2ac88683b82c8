#!/usr/bin/env python3
"""GenBench Figures 4, 5, 6, 9, 10 and section 12.2: how well each metric predicts the accuracy of a linear probe."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("metrics"))
