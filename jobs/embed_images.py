#!/usr/bin/env python3
"""Embed the images of a workspace by one more encoder; images that have its embedding are left as they are."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("embed"))
