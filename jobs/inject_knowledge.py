#!/usr/bin/env python3
"""One learned token per class from reference images, and images generated with it; run it again to go on (GenBench section 4)."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("inject"))
