"""Sets of image ids that fit in memory: 16 bytes per id, so 100 million ids take 1.6 GB."""

import binascii
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HEX_DIGITS = 32


def id_bytes(ids: Sequence[str] | pa.Array | np.ndarray) -> np.ndarray:
    """The ids as `[N] S16` (numpy compares all 16 bytes, since every id has as many); returns such an array unchanged.

    Raises ValueError if an id is not 32 hexadecimal digits.
    """
    if isinstance(ids, np.ndarray) and ids.dtype == "S16":
        return ids
    array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    if not len(array):
        return np.empty(0, "S16")
    array = array.cast(pa.large_string())
    if array.null_count or not pc.all(pc.equal(pc.binary_length(array), HEX_DIGITS)).as_py():
        raise ValueError(f"an image id is {HEX_DIGITS} hexadecimal digits; take ids from Recipe.id")
    _, offsets, data = array.buffers()
    start = np.frombuffer(offsets, np.int64)[array.offset]
    try:
        raw = binascii.unhexlify(memoryview(data)[start : start + HEX_DIGITS * len(array)])
    except binascii.Error as error:
        raise ValueError(f"an image id is {HEX_DIGITS} hexadecimal digits; take ids from Recipe.id") from error
    return np.frombuffer(raw, "S16")


def id_names(ids: np.ndarray) -> list[str]:
    """The hexadecimal ids of `[N] S16`; element access in numpy would cut off trailing zero bytes."""
    text = np.ascontiguousarray(ids).tobytes().hex()
    return [text[start : start + HEX_DIGITS] for start in range(0, len(text), HEX_DIGITS)]


def _distinct(ids: np.ndarray) -> np.ndarray:
    """Each of `[N] S16` once, sorted; `np.unique` takes six times as long."""
    ordered = np.sort(ids)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


class IdSet:
    """A set of image ids, held as one sorted array."""

    def __init__(self, batches: Iterable[Sequence[str] | pa.Array] = ()) -> None:
        parts = [id_bytes(batch) for batch in batches]
        self._sorted = _distinct(np.concatenate(parts)) if parts else np.empty(0, "S16")

    def __len__(self) -> int:
        return len(self._sorted)

    def contains(self, ids: Sequence[str] | pa.Array | np.ndarray) -> np.ndarray:
        """Membership of `ids` in the set, `[N] bool`. Raises ValueError if an id is not 32 hexadecimal digits."""
        wanted = id_bytes(ids)
        if not len(self._sorted):
            return np.zeros(len(wanted), bool)
        places = np.searchsorted(self._sorted, wanted)
        return self._sorted[np.minimum(places, len(self._sorted) - 1)] == wanted
