"""What every job's command line shares: flags from a dataclass, one clear sentence for bad input, a clean stop on a signal."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from engine.failures import RunFailed

Config = TypeVar("Config")

GO_ON = "What was committed stays; run the same command again to go on."


def run_command(config_type: type[Config], action: Callable[[Config], Any], description: str) -> int:
    """Parses the command line into `config_type`, runs `action` on it, and returns the exit code.

    0: done (or what `action` returns, where that is a number). 1: the cluster failed. 2: bad input. 3: the run stopped, or lost too
    many images. Each is told in one sentence on stderr. 130: interrupted. 143: terminated. What was committed stays.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tyro

    terminated = []

    def terminate(number: int, frame: Any) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        code = action(tyro.cli(config_type, description=description))
        return code if isinstance(code, int) else 0
    except (ValueError, RunFailed) as error:
        if os.environ.get("IMAGEFOUNDRY_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 3
    except KeyboardInterrupt:
        print(f"\n{'Terminated' if terminated else 'Interrupted'}. {GO_ON}", file=sys.stderr)
        return 143 if terminated else 130
    except Exception as error:
        if not _is_of_ray(error) or os.environ.get("IMAGEFOUNDRY_TRACEBACK") == "1":
            raise
        print(f"error: the Ray cluster failed ({_first_line(error)}). {GO_ON}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_of_ray(error: Exception) -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and isinstance(error, ray.exceptions.RayError)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
