#!/usr/bin/env python3
"""RealRAG's premise put to the test: every kind of negative, in a world whose siblings generator and CLIP confuse."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("premise"))
