#!/usr/bin/env python3
"""Reflective negatives: draws each training prompt and finds the database images nearest to what was drawn (RealRAG Eq. 3-4)."""

import sys

from engine.command import run_command
from engine.studies.realrag.negatives import MineConfig, mine_negatives


def main(config: MineConfig) -> None:
    """Mines what is missing and prints how much that was."""
    found = mine_negatives(config)
    print(
        f"{found['mined']:,} generated images mined and {found['present']:,} were already, in a database of {found['images']:,} "
        f"pictures ({found['duplicates']:,} duplicates left out), {found['name']}. Workspace: {config.workspace}"
    )


if __name__ == "__main__":
    sys.exit(run_command(MineConfig, main, str(__doc__)))
