"""Lines about runs on stderr: plain ones, or JSON with the time and the run for machines that collect them."""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

VARIABLE = "IMAGEFOUNDRY_LOG"
"""Environment variable; `json` makes each line a JSON object."""


def is_json() -> bool:
    """Whether lines are JSON. Raises ValueError if the variable has another value than `json` or `plain`."""
    asked = os.environ.get(VARIABLE, "plain") or "plain"
    if asked not in ("json", "plain"):
        raise ValueError(f"{VARIABLE} is {asked!r}; set it to json or plain")
    return asked == "json"


def json_line(run_id: str, **values: Any) -> str:
    """One JSON object with `time` (UTC, ISO 8601), `run_id` and the values."""
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "run_id": run_id, **values})


def say(line: str, run_id: str = "") -> None:
    """Prints a line about a run."""
    print(json_line(run_id, message=line) if is_json() else line, file=sys.stderr, flush=True)
