#!/usr/bin/env python3
"""GenBench up to 500 shots: make generative, retrieval and original images, score and price them (GenBench Fig. 3)."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("genbench"))
