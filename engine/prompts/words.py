"""The fixed words of the paper's strategies (`words.toml`)."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load_words() -> dict[str, dict[str, Any]]:
    """Strategy → its words."""
    return tomllib.loads(files("engine.prompts").joinpath("words.toml").read_text("utf-8"))
