#!/usr/bin/env python3
"""RealRAG's human study: writes blinded rating sheets of a workspace's images; with --analyse reads the answers and prints the table."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("rate"))
