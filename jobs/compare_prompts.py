#!/usr/bin/env python3
"""GenBench's Table 2: CLER of every prompt strategy at 20 shots, and the best strategy and source for each class."""

import sys

from engine.command import run_command
from engine.studies.genbench.prompts import PromptsConfig, run_prompts


def main(config: PromptsConfig) -> None:
    """Runs the study and prints its report."""
    run_prompts(config).print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


if __name__ == "__main__":
    sys.exit(run_command(PromptsConfig, main, str(__doc__)))
