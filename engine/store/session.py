"""Memory that the handles of a workspace's tables share."""

from typing import Any

METADATA_CACHE_BYTES = 64 * 1024**2
"""Lance's own limit is 1 GiB per table; a server fills it with the versions and files that it has left behind."""


def bounded_session() -> Any:
    """A `lance.Session`: what was read about versions and files is kept up to a limit, indices up to Lance's own."""
    import lance

    return lance.Session(metadata_cache_size_bytes=METADATA_CACHE_BYTES)
