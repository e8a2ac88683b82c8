"""Random numbers that are a function of a key alone, so that an image never depends on its batch."""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a well-mixed bijection of uint64, any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def image_keys(seed: int, split: str, name: str, indices: np.ndarray) -> np.ndarray:
    """One key an image, [N] uint64, from all that names it: world seed, split, class name and index in the split."""
    digest = hashlib.blake2b(f"{seed}\0{split}\0{name}".encode(), digest_size=8).digest()
    base = np.uint64(int.from_bytes(digest, "little"))
    return mix(base + (indices.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def words(keys: np.ndarray, num: int, stream: int) -> np.ndarray:
    """[N, num] random uint64 from [N] keys; different streams are independent."""
    counter = np.arange(1, num + 1, dtype=np.uint64) + np.uint64(stream << 32)
    return mix(keys[:, None] + counter[None, :] * _GOLDEN)


class Dice:
    """A sequence of uniform random numbers for each image of a batch, each [N] float32."""

    def __init__(self, keys: np.ndarray, num: int = 160) -> None:
        self._uniform = ((words(keys, num, 1) >> np.uint64(40)).astype(np.float32)) * np.float32(2**-24)
        self._next = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """[N] float32 in [low, high)."""
        assert self._next < self._uniform.shape[1], "raise Dice's num"
        sample = self._uniform[:, self._next]
        self._next += 1
        return np.float32(low) + sample * np.float32(high - low)

    def choice(self, num: int) -> np.ndarray:
        """[N] int64 in range(num)."""
        return (self.uniform() * num).astype(np.int64)

    def colours(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """[N, 3] float32 in [low, high)."""
        return np.stack([self.uniform(low, high) for _ in range(3)], axis=1)
