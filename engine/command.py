"""What every job's command line shares: flags from a dataclass, one clear sentence for bad input, a clean stop on Ctrl-C."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

Config = TypeVar("Config")


def run_command(config_type: type[Config], action: Callable[[Config], Any], description: str) -> int:
    """Parses the command line into `config_type`, runs `action` on it, and returns the exit code.

    0: done. 2: bad input, told in one sentence on stderr. 130: interrupted; what was committed stays.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tyro

    try:
        action(tyro.cli(config_type, description=description))
    except ValueError as error:
        if os.environ.get("IMAGEFOUNDRY_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What was committed stays; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0
