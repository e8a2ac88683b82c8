"""Where `world:` data sets are: the miniature world is drawn by its own command, once a machine."""

import subprocess
import sys
from pathlib import Path

from engine.catalog.index import cache_folder

VERSION = 2
"""Version of the miniature world that is drawn (`engine.world.write.VERSION`); each has its own folder."""


def world_folder() -> Path:
    """Folder of the miniature world on this machine."""
    return cache_folder() / f"world-{VERSION}"


def resolve_location(location: str) -> str:
    """Path or URL of a location; a `world:NAME` is drawn first if this machine does not have it yet.

    Raises:
        ValueError: the world could not be drawn.
    """
    if not location.startswith("world:"):
        return location
    folder = world_folder()
    if not (folder / "world.json").exists():
        print(f"Drawing the miniature world into {folder} (once, about a minute) …", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", "engine.world", str(folder)], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise ValueError(f"the miniature world could not be drawn; `python -m engine.world {folder}` says why")
    return str(folder / location.removeprefix("world:"))
