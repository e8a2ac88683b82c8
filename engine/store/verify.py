"""Damage to a workspace: noticed cheaply before a run, found row by row, and removed so that the next run makes it again."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.store.fence import FENCED

if TYPE_CHECKING:
    from engine.store.workspace import Workspace


def check_files(workspace: "Workspace") -> None:
    """Compares the sizes of the data files of `images` and `errors` with what their writers recorded; reads none.

    Raises ValueError with the first file that is missing or has another size, and how to repair the workspace.
    """
    for name in FENCED:
        folder = f"{workspace.table_uri(name)}/data"
        fragments = workspace.dataset(name).get_fragments()
        sizes = _sizes(folder) if fragments else {}
        for file in (file for fragment in fragments for file in fragment.metadata.files):
            size = sizes.get(file.path)
            if size is None:
                raise damaged(workspace.uri, f"{folder}/{file.path} is missing")
            if file.file_size_bytes not in (None, size):
                raise damaged(workspace.uri, f"{folder}/{file.path} has {size} bytes instead of {file.file_size_bytes}")


def damaged(uri: str, finding: str) -> ValueError:
    """The error of a run that finds the workspace damaged."""
    cure = f"repair it with jobs/verify_workspace.py --workspace {uri} --repair and start the run again"
    return ValueError(f"workspace {uri} is damaged ({finding}); {cure}")


def _sizes(folder: str) -> dict[str, int]:
    if "://" not in folder:
        return {file.name: file.stat().st_size for file in Path(folder).iterdir()} if Path(folder).exists() else {}
    import fsspec

    fs, path = fsspec.core.url_to_fs(folder, use_listings_cache=False, skip_instance_cache=True)
    try:
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in fs.ls(path, detail=True)}
    except FileNotFoundError:
        return {}
