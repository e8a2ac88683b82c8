"""Vectors like an image encoder's: a cone, groups of classes, classes, looks of a class, and noise."""

from collections.abc import Iterator

import numpy as np

SHARES = {"cone": 0.45, "group": 0.15, "class": 0.15, "look": 0.10, "noise": 0.15}
"""Shares of a vector's squared length. The mean cosine of two images is the cone's share, about the same as in CLIP."""


class ClusteredVectors:
    """Unit vectors `[N, D]` float32 in `num_classes` classes, ten classes per group, ten looks per class.

    Each part is Gaussian with the variance `i ** -decay` in direction `i`. A decay of 1 leaves 30 % of the variance about
    the mean beyond the first 64 of 512 directions; the embedded mini-CLIP's own vectors fall with 3.6; 0 is as hard as it
    gets: no direction tells more than another.
    """

    def __init__(self, dimension: int = 512, num_classes: int = 1000, decay: float = 1.0, seed: int = 0):
        random = np.random.default_rng(seed)
        self.num_classes = num_classes
        scales = np.arange(1, dimension + 1, dtype=np.float32) ** (-decay / 2)
        self._scales = scales / np.linalg.norm(scales)
        self._rotation = np.linalg.qr(random.normal(size=(dimension, dimension)))[0].astype(np.float32)
        self._groups = self._part(random, num_classes // 10 + 1, "group")
        self._classes = self._part(random, num_classes, "class")
        self._looks = self._part(random, num_classes * 10, "look")
        cone = random.normal(size=dimension).astype(np.float32)
        self._cone = cone / np.linalg.norm(cone) * np.sqrt(SHARES["cone"])

    def _part(self, random: np.random.Generator, num: int, name: str) -> np.ndarray:
        normal = random.standard_normal((num, len(self._scales)), dtype=np.float32)
        return normal * self._scales * np.float32(np.sqrt(SHARES[name]))

    def draw(self, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples `[num, D]` vectors and their classes `[num]` int64."""
        random = np.random.default_rng([seed, num])
        classes = random.integers(self.num_classes, size=num)
        looks = classes * 10 + random.integers(10, size=num)
        vectors = self._part(random, num, "noise")
        vectors += self._groups[classes // 10] + self._classes[classes] + self._looks[looks]
        vectors = vectors @ self._rotation + self._cone
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes

    def blocks(self, num: int, seed: int, rows: int = 65_536) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same, some rows at a time."""
        for start in range(0, num, rows):
            yield self.draw(min(rows, num - start), seed + start)
