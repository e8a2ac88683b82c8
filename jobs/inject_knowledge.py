#!/usr/bin/env python3
"""GenBench section 4: learn a token per class from reference images, generate with it, compare (Table 3, Fig. 7, 8, 11, 12)."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("inject"))
