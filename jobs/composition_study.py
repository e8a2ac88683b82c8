#!/usr/bin/env python3
"""Composition: every class in contexts such as `at night`, with and without references, judged for object and for context."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("composition"))
