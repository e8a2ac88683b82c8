#!/usr/bin/env python3
"""Export images of a workspace as Hugging Face parquet, webdataset shards or image folders, with marks and a data card."""

import sys

from engine.cli.main import run_job

if __name__ == "__main__":
    sys.exit(run_job("export"))
