"""Images that are copies of others: as they are, mirrored, cropped, brighter or darker, or compressed again.

Two steps. `propose` correlates a small version of each query with small versions of every known image in twenty variants (whole and
nine crops of 90 %, each mirrored too), and names the most alike. `align` then warps each of these onto the query, from coarse to
fine, and correlates at full size. A copy that was cropped by a fraction of a pixel's width is found by the second step alone, and an
image that merely shows the same class in the same place passes the first alone. All numbers are correlations, at most 1; they do
not change with brightness or contrast. Clipped pixels (almost black or white) of a query are left out.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from engine.cpus import usable_cpus

COARSE = 8
"""Side of the small versions, in pixels."""
CROP = 0.9
"""Side of the crops among the variants, as a share."""
SIDE = 32
"""Side at which images are aligned, in pixels."""
ALIGNED = 16
"""Side at which they are compared; the noise of a compressed file is averaged away."""
GRID = {1.0: 1, 0.95: 3, 0.9: 3, 0.85: 5, 0.8: 5}
"""Sides of the crops that the alignment begins with, as a share → places along each axis."""
STEPS = (0.025, 0.0125, 0.00625)
"""Steps of scale and place, as a share of the side, with which the best crop is refined."""
REFINED = 3
"""Candidates of each query whose alignment is refined."""
HOPELESS = 0.75
"""Correlation of the best crop of the grid below which nothing is refined. Refinement does not lift such a crop to what an audit
calls a copy (0.93, for which 0.874 is needed before the allowance for noise); it would take half of the time."""
CLIPPED = (2.0, 253.0)
"""Levels beyond which a pixel counts as clipped."""
NOISE, NOISE_SHARE = 50.0, 0.1
"""Variance that compression adds to a copy (7 grey levels, as JPEG of quality 50 does at 32 pixels), at most this share of the query's
own variance. A difference of that size does not lower the score."""
GAINS = (1.0, 1.15, 1.3, 1.5, 2.0)
"""Factors of brightness that are tried, clipped at white, where most of a query is clipped."""
QUERIES_AT_ONCE = 64
KNOWN_AT_ONCE = 1_024
"""Known images whose correlations with these queries are in memory at once, 5 MB per thread; all of 20,000 would be 100 MB."""
ALIGNED_AT_ONCE = 256
MIN_VARIANCE = 1e-6
MIN_SEEN = 0.25
"""Share of pixels that are not clipped, below which all are compared."""


@dataclass(frozen=True)
class Matches:
    """The most alike known image of each of `N` queries."""

    index: np.ndarray
    """`[N] int64`: which."""
    score: np.ndarray
    """`[N] float32`: correlation after alignment, less the noise of compression."""
    coarse: np.ndarray
    """`[N] float32`: best correlation of the small versions."""


class CopyFinder:
    """Finds copies of known images `[T, 32, 32, 3]` uint8 (see `resized`)."""

    def __init__(self, known: np.ndarray, candidates: int = 10) -> None:
        """`candidates`: known images that are aligned with each query. Raises ValueError for arrays of another shape."""
        if known.ndim != 4 or known.shape[1:] != (SIDE, SIDE, 3) or not len(known):
            raise ValueError(f"known images have shape {known.shape}; give [T, {SIDE}, {SIDE}, 3] with T of 1 or more")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._known = torch.from_numpy(np.ascontiguousarray(known))
        self._k = min(candidates, len(known))
        self._variants = self._coarse_variants()

    def _coarse_variants(self) -> torch.Tensor:
        """`[T, V, 192]` unit norm; even variants as they are, odd ones mirrored."""
        crop, rest = CROP * SIDE, (1 - CROP) * SIDE
        starts = [(0.0, 0.0, float(SIDE))] + [(y * rest, x * rest, crop) for y in (0, 0.5, 1) for x in (0, 0.5, 1)]
        weights = [(crop_weights(SIDE, y, size, COARSE), crop_weights(SIDE, x, size, COARSE)) for y, x, size in starts]
        found = []
        for part in self._known.split(4096):
            images = part.float()
            small = [torch.einsum("ai,nijc,bj->nabc", rows, images, columns) for rows, columns in weights]
            found.append(torch.stack([_unit(each) for one in small for each in (one, one.flip(2))], 1))
        return torch.cat(found).to(self._device)

    def find(self, queries: np.ndarray, not_these: np.ndarray | None = None) -> Matches:
        """The best match of each query `[N, 32, 32, 3]` uint8; `not_these` `[N]` are known images that are not compared with it.

        Raises ValueError for arrays of another shape.
        """
        if queries.ndim != 4 or queries.shape[1:] != (SIDE, SIDE, 3):
            raise ValueError(f"queries have shape {queries.shape}; give [N, {SIDE}, {SIDE}, 3]")
        images = torch.from_numpy(np.ascontiguousarray(queries))
        skipped = None if not_these is None else torch.as_tensor(not_these, device=self._device)
        parts = [slice(start, start + QUERIES_AT_ONCE) for start in range(0, len(images), QUERIES_AT_ONCE)]

        def find_part(part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self._find(images[part].float(), None if skipped is None else skipped[part])

        with one_thread_per_operation(), ThreadPoolExecutor(usable_cpus()) as pool:
            found = list(pool.map(find_part, parts))
        columns = [torch.cat(each).cpu().numpy() for each in zip(*found, strict=True)] or [np.zeros(0)] * 3
        return Matches(columns[0].astype(np.int64), columns[1].astype(np.float32), columns[2].astype(np.float32))

    def _find(
        self, queries: torch.Tensor, skipped: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        proposed, is_mirrored, coarse = self.propose(queries, skipped)
        queries = queries.to(self._device)
        crops, scores = self._aligned(queries, proposed, is_mirrored)
        scores, order = scores.topk(min(REFINED, self._k), dim=1)
        proposed, is_mirrored = proposed.gather(1, order), is_mirrored.gather(1, order)
        crops = crops.gather(1, order[:, :, None].expand(-1, -1, 3))
        near = (scores[:, 0] >= HOPELESS).nonzero()[:, 0]
        if len(near):
            scores[near] = self._aligned(queries[near], proposed[near], is_mirrored[near], crops[near], scores[near])[1]
        best = scores.argmax(1, keepdim=True)
        score = without_noise(scores.gather(1, best)[:, 0], Target.of(queries).variance)
        return proposed.gather(1, best)[:, 0], score, coarse[:, 0]

    def _aligned(
        self,
        queries: torch.Tensor,
        proposed: torch.Tensor,
        is_mirrored: torch.Tensor,
        crops: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops `[N, K, 3]` and correlations `[N, K]` of queries with their proposed images: from a grid, or refined."""
        count = proposed.shape[1]
        owners = torch.arange(len(queries), device=self._device).repeat_interleave(count)
        found = []
        for part in torch.arange(len(owners), device=self._device).split(ALIGNED_AT_ONCE):
            images = self._known[proposed.flatten()[part].cpu()].to(self._device).float()
            images = torch.where(is_mirrored.flatten()[part][:, None, None, None], images.flip(2), images)
            target = Target.of(queries[owners[part]])
            if crops is None or scores is None:
                found.append(best_of_grid(target, images))
            else:
                found.append(refine(target, images, crops.flatten(0, 1)[part], scores.flatten()[part]))
        columns = [torch.cat(each) for each in zip(*found, strict=True)]
        return columns[0].reshape(len(queries), count, 3), columns[1].reshape(len(queries), count)

    def propose(
        self, queries: torch.Tensor, skipped: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Most alike known images of queries `[N, 32, 32, 3]` float32: index, whether mirrored, correlation, each `[N, K]`."""
        weights = crop_weights(SIDE, 0.0, float(SIDE), COARSE)
        small = _unit(torch.einsum("ai,nijc,bj->nabc", weights, queries, weights)).to(self._device)
        found = []
        for start, variants in enumerate(self._variants.split(KNOWN_AT_ONCE)):
            scores = (small @ variants.flatten(0, 1).T).reshape(len(queries), *variants.shape[:2])
            best, variant = scores.max(2)
            first = start * KNOWN_AT_ONCE
            if skipped is not None:
                here = ((skipped >= first) & (skipped < first + len(variants))).nonzero()[:, 0]
                best[here, skipped[here] - first] = -2.0
            coarse, proposed = best.topk(min(self._k, len(variants)), dim=1)
            found.append((coarse, proposed + first, variant.gather(1, proposed) % 2 == 1))
        columns = [torch.cat(each, 1) for each in zip(*found, strict=True)]
        coarse, order = columns[0].topk(self._k, dim=1)
        return columns[1].gather(1, order), columns[2].gather(1, order), coarse


@dataclass(frozen=True)
class Target:
    """Queries at the size at which they are compared, ready for correlations."""

    centred: torch.Tensor
    """`[N, D]` float32 levels less their mean, 0 where a pixel is clipped."""
    mask: torch.Tensor
    """`[N, D]` float32: 1 where a pixel is not clipped; all 1 where most are."""
    is_clipped: torch.Tensor
    """`[N]` bool: most pixels are."""

    @classmethod
    def of(cls, queries: torch.Tensor) -> "Target":
        """Targets of queries `[N, 32, 32, 3]` float32."""
        factor = SIDE // ALIGNED
        blocks = queries.reshape(len(queries), ALIGNED, factor, ALIGNED, factor, 3)
        is_clipped = ((blocks <= CLIPPED[0]) | (blocks >= CLIPPED[1])).any(4).any(2)
        mask = (~is_clipped).float().flatten(1)
        is_most = mask.mean(1) < MIN_SEEN
        mask = torch.where(is_most[:, None], torch.ones_like(mask), mask)
        levels = blocks.mean((2, 4)).flatten(1)
        return cls((levels - (levels * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask, mask, is_most)

    @property
    def variance(self) -> torch.Tensor:
        """`[N]`: mean square of the levels, less their mean, over the pixels that are not clipped."""
        return (self.centred**2).sum(1) / self.mask.sum(1)

    def correlate(self, warped: torch.Tensor) -> torch.Tensor:
        """Correlations `[N, V]` with images `[N, V, D]`, over the pixels that are not clipped."""
        found = self._correlate(warped)
        if self.is_clipped.any():
            rows = self.is_clipped.nonzero()[:, 0]
            part = Target(self.centred[rows], self.mask[rows], self.is_clipped[rows])
            tries = [part._correlate((gain * warped[rows]).clamp(max=255.0)) for gain in GAINS]
            found[rows] = torch.stack(tries).amax(0)
        return found

    def _correlate(self, warped: torch.Tensor) -> torch.Tensor:
        number = self.mask.sum(1, keepdim=True)
        sums = torch.bmm(warped, self.mask[:, :, None])[:, :, 0]
        squares = torch.bmm(warped**2, self.mask[:, :, None])[:, :, 0]
        products = torch.bmm(warped, self.centred[:, :, None])[:, :, 0]
        own = (self.centred**2).sum(1, keepdim=True).clamp(min=MIN_VARIANCE)
        return products / ((squares - sums**2 / number).clamp(min=MIN_VARIANCE) * own).sqrt()


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """torch with one thread per operation. These operations are small: threads inside each of them wait more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_of_grid(target: Target, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The crop `[N, 3]` (size, row, column, as shares of the side) of each image that is most like its query, and the correlation `[N]`."""
    best = torch.full((len(images),), -2.0, device=images.device)
    crops = torch.zeros((len(images), 3), device=images.device)
    for scale, places_along in GRID.items():
        places = torch.linspace(0, 1 - scale, places_along)
        weights = torch.cat([crop_weights(SIDE, float(place) * SIDE, scale * SIDE, ALIGNED) for place in places])
        weights = weights.to(images.device)  # [places * ALIGNED, SIDE]
        rows = torch.matmul(weights, images.flatten(2)).reshape(len(images), -1, SIDE, 3)
        warped = torch.matmul(weights, rows.flatten(0, 1)).reshape(
            len(images), places_along, ALIGNED, places_along, ALIGNED, 3
        )
        score, which = target.correlate(warped.transpose(2, 3).flatten(3).flatten(1, 2)).max(1)
        options = torch.tensor([[scale, float(y), float(x)] for y in places for x in places], device=images.device)
        crops = torch.where((score > best)[:, None], options[which], crops)
        best = torch.maximum(score, best)
    return crops, best


def refine(
    target: Target, images: torch.Tensor, crops: torch.Tensor, scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Better crops near those given, and their correlations, in the form of `best_of_grid`."""
    for step in STEPS:
        options = _neighbours(crops, step)
        found = []
        for place in range(options.shape[1]):
            size, y, x = options[:, place].T
            rows = torch.bmm(_weights(y, size, SIDE, ALIGNED), images.flatten(2)).reshape(len(images), ALIGNED, SIDE, 3)
            columns = _weights(x, size, SIDE, ALIGNED)
            warped = torch.bmm(columns, rows.transpose(1, 2).flatten(2)).reshape(len(images), ALIGNED, ALIGNED, 3)
            found.append(target.correlate(warped.transpose(1, 2).flatten(1)[:, None])[:, 0])
        score, which = torch.stack(found, 1).max(1)
        crops = torch.where((score > scores)[:, None], options[torch.arange(len(options)), which], crops)
        scores = torch.maximum(score, scores)
    return crops, scores


def without_noise(score: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Correlations `[N]` as they would be without the noise that compression is expected to add to queries of a variance `[N]`."""
    variance = variance.clamp(min=MIN_VARIANCE)
    unexplained = (1 - score.clamp(min=0) ** 2) * variance - torch.minimum(
        torch.full_like(variance, NOISE), NOISE_SHARE * variance
    )
    return torch.where(score > 0, (1 - unexplained.clamp(min=0) / variance).clamp(min=0).sqrt(), score)


def _neighbours(crops: torch.Tensor, step: float) -> torch.Tensor:
    """The crops around each: `[N, 27, 3]`, within the image; their centres move by multiples of the step."""
    found = []
    for scale in (-step, 0.0, step):
        size = (crops[:, 0] + scale).clamp(0.75, 1.0)
        for down in (-step, 0.0, step):
            for right in (-step, 0.0, step):
                y = crops[:, 1] + (crops[:, 0] - size) / 2 + down
                x = crops[:, 2] + (crops[:, 0] - size) / 2 + right
                limit = (1 - size).clamp(min=0)
                found.append(torch.stack([size, y.clamp(min=0).minimum(limit), x.clamp(min=0).minimum(limit)], 1))
    return torch.stack(found, 1)


def crop_weights(side: int, start: float, size: float, out: int) -> torch.Tensor:
    """`[out, side]` weights that average the pixels from `start` to `start + size` into `out` pixels."""
    return _weights(torch.tensor([start / side]), torch.tensor([size / side]), side, out)[0]


def _weights(start: torch.Tensor, size: torch.Tensor, side: int, out: int) -> torch.Tensor:
    """`[N, out, side]` for starts and sizes `[N]`, as shares of the side: each output pixel is the mean of what it covers."""
    step = (size * side / out)[:, None]
    first = (start[:, None] * side + torch.arange(out, device=start.device) * step)[:, :, None]
    pixels = torch.arange(side, device=start.device)
    covered = (torch.minimum(first + step[:, :, None], pixels + 1) - torch.maximum(first, pixels)).clamp(min=0)
    return covered / covered.sum(2, keepdim=True)


def _unit(images: torch.Tensor) -> torch.Tensor:
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)


def resized(pixels: np.ndarray) -> np.ndarray:
    """`[32, 32, 3]` uint8 of an image `[H, W, 3]` uint8 of any size and shape."""
    from PIL import Image

    if pixels.shape == (SIDE, SIDE, 3):
        return pixels
    return np.asarray(
        Image.fromarray(pixels).resize(
            (SIDE, SIDE), Image.Resampling.BOX if min(pixels.shape[:2]) >= SIDE else Image.Resampling.BILINEAR
        )
    )
