"""Where `world:` data sets are: the miniature world is drawn by its own command, once a machine."""

import os
import subprocess
import sys
from pathlib import Path

from engine.cache import cache_folder

VERSION = 2
"""Version of the miniature world that is drawn (`engine.world.write.VERSION`); each has its own folder."""


APART = {
    "mini-many": ("--datasets", "mini-many", "--shots", "60", "--test-images", "10"),
    "mini-pairs": ("--datasets", "mini-pairs", "--shots", "120", "--test-images", "40"),
}
"""Data sets that most have no need of → how they are drawn, each into a folder of its own."""


def world_folder(dataset: str = "") -> Path:
    """Folder of the miniature world on this machine, or of a data set that is drawn apart."""
    return cache_folder() / (f"world-{VERSION}" + (f"-{dataset}" if dataset in APART else ""))


def resolve_location(location: str) -> str:
    """Path (with `~` expanded) or URL of a location; a `world:NAME` is drawn first if this machine does not have it yet.

    Raises:
        ValueError: the world could not be drawn.
    """
    if not location.startswith("world:"):
        return location if "://" in location else os.path.expanduser(location)
    dataset = location.removeprefix("world:")
    folder = world_folder(dataset)
    if not (folder / "world.json").exists():
        print(f"Drawing the miniature world into {folder} (once, about a minute) …", file=sys.stderr, flush=True)
        command = ["-m", "engine.world", str(folder), *APART.get(dataset, ())]
        done = subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise ValueError(f"the miniature world could not be drawn; `python {' '.join(command)}` says why")
    return str(folder / dataset)
