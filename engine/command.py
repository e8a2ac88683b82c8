"""Shared by every command line: flags from a dataclass, one sentence for bad input, a clean stop on a signal."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.failures import RunFailed

RERUN = "What was committed stays; run the same command again to go on."


def run_command(
    config_type: Any,
    action: Callable[[Any], Any],
    description: str,
    *,
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    example: str = "",
) -> int:
    """Parses a command line, calls `action` with the configuration, and returns the exit code.

    Args:
        config_type: dataclass, or union of dataclasses, whose fields are the flags.
        action: does the work; a whole number that it returns is the exit code.
        description: first line of the help.
        arguments: the command line without the program; that of the process by default.
        program: name of the program in the help; that of the script by default.
        example: a whole command line that works, which the help ends with.

    Returns:
        0: done. 1: the cluster failed. 2: bad input. 3: the run stopped, or lost too many images. Each of these prints one
        sentence on stderr. 130: interrupted (Ctrl-C). 141: the reader of the output went away, as `| head` does.
        143: terminated. What was committed stays.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tyro

    terminated = []

    def terminate(number: int, frame: Any) -> None:
        terminated.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        try:
            config = tyro.cli(config_type, prog=program, description=description, args=arguments)
        except SystemExit as stop:
            if example and not stop.code:
                print(f"\nexample:\n  {example}")
            raise
        code = action(config)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (ValueError, RunFailed) as error:
        if os.environ.get("IMAGEFOUNDRY_TRACEBACK") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 3
    except KeyboardInterrupt:
        print(f"\n{'Terminated' if terminated else 'Interrupted'}. {RERUN}", file=sys.stderr)
        return 143 if terminated else 130
    except BrokenPipeError:
        if not _is_unread():
            raise
        return 141
    except Exception as error:
        if not _is_of_ray(error) or os.environ.get("IMAGEFOUNDRY_TRACEBACK") == "1":
            raise
        print(f"error: the Ray cluster failed ({_short(error)}). {RERUN}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_place(name: str, path: str | Path) -> None:
    """Raises ValueError for a relative path inside a Ray job, whose folder is a copy that is deleted with the job."""
    text = str(path)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "://" not in text and not Path(text).expanduser().is_absolute():
        raise ValueError(
            f"{name} {text!r} is a relative path, and a Ray job runs in a copy of the project that is deleted with it; "
            f"give an absolute path that all nodes see{', or s3://…' if name == 'workspace' else ''}"
        )


def _is_unread() -> bool:
    """Whether nobody reads stdout any more; Python then says nothing about it when it ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _is_of_ray(error: Exception) -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and isinstance(error, ray.exceptions.RayError)


def _short(error: Exception) -> str:
    """First line of Ray's message; of an actor that died also its class and the reason, which stand further down."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = [line for line in lines[1:] if line.startswith(("class_name: ", "The actor is dead because "))]
    return " ".join([*lines[:1], *more])[:400] or type(error).__name__
