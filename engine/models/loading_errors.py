"""One sentence for an error that a library raises while it loads a model."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.models.faults import is_device_fault


@contextmanager
def loading_errors(kind: str, name: str, gated: bool = False) -> Iterator[None]:
    """Turns the libraries' errors into one ValueError; a device fault passes through unchanged.

    Args:
        kind: the kind of model, such as `encoder`.
        name: its name, hub id or folder.
        gated: whether the Hub asks users to accept its licence first.
    """
    try:
        yield
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        if is_device_fault(error):
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "accept its licence on the Hub and log in, or " if gated else ""
        raise ValueError(
            f"{kind} {name!r} could not be loaded ({first_line}); {advice}check its files (safetensors) or your connection"
        ) from error
