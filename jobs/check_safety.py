#!/usr/bin/env python3
"""Score the images of a workspace by a safety checker; images that have its score are left as they are."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("check-safety"))
