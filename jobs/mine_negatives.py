#!/usr/bin/env python3
"""Reflective negatives: generate an image for each training prompt and find the nearest database images (RealRAG Eq. 3-4)."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("mine-negatives"))
