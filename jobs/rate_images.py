#!/usr/bin/env python3
"""RealRAG's human study: write blinded rating sheets of a workspace's images; with --analyse, read the answers."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("rate"))
