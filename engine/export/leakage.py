"""Copies among the pixels of an audit: training images that show a test image, and training images that show each other."""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cpus import usable_cpus
from engine.store.snapshot import Snapshot

MAX_TEST = 20_000
"""Test images that are compared with, at most; their small versions take 15 kB each."""
MAX_WITHIN = 20_000
"""Training images that are compared with each other, at most: the time grows with their square."""
CALIBRATION = 1_000
"""Test images whose nearest other test image sets the threshold, at most."""
FALSE_ALARMS = 0.001
"""Share of clean images that the threshold may flag."""
FLOOR, CEILING = 0.93, 0.98
"""The threshold stays within these, whatever the test images are: below, copies of no test image pass; above, a copy that was
compressed again is missed."""
SHOWN = 10
"""Pairs that a report names."""
READ_AT_ONCE = 500


@dataclass
class CopyReport:
    """Copies found in a sample of the training images."""

    num_test: int
    num_checked: int
    threshold: float
    """Correlation after alignment from which an image counts as a copy; set by the test images themselves."""
    leaked: int
    """Sampled training images that show a test image."""
    repeated: int
    """Sampled training images that show another of the sample."""
    num_within: int
    """Sampled training images that were compared with each other: all of them, up to `MAX_WITHIN`."""
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """The most alike training and test images that were flagged: ids and correlation."""

    def lines(self) -> list[str]:
        """Findings as sentences."""
        share = self.leaked / max(self.num_checked, 1)
        named = "; ".join(
            f"{pair['train_id']} shows {pair['test_id']} ({pair['score']:.3f})" for pair in self.pairs[:3]
        )
        return [
            f"Leakage: {self.leaked:,} of {self.num_checked:,} sampled training images ({share:.2%}) look like copies of one of "
            f"{self.num_test:,} test images, compared at 32 pixels after alignment of crops down to 80 % and mirroring "
            f"(threshold {self.threshold:.3f}, at which about {FALSE_ALARMS:.1%} of the test images look like another)"
            f"{f'; the most alike: {named}' if named else ''}.",
            f"Near-duplicates: {self.repeated:,} of {'the same ' if self.num_within == self.num_checked else ''}"
            f"{self.num_within:,} training images look like another of them.",
        ]


def audit_copies(snapshot: Snapshot, images: int, seed: int) -> CopyReport | None:
    """Compares a sample of the training images (`images`, 0 for all) with all test images of the workspace and with each other.

    None if there are no training or no test images.
    """
    from engine.evaluation import CopyFinder

    random = np.random.default_rng(seed)
    train_ids = _sampled(snapshot, "split = 'train'", images, random, own=True)
    test_ids = _sampled(snapshot, "split = 'test'", MAX_TEST, random, own=False)
    if not train_ids or len(test_ids) < 2:
        return None
    test_ids, test = _pixels(snapshot, test_ids)
    train_ids, train = _pixels(snapshot, train_ids)
    # a hundred images per second and core: a minute for the default sample
    print(
        f"audit: comparing {len(train):,} training images with {len(test):,} test images", file=sys.stderr, flush=True
    )
    finder = CopyFinder(test)
    threshold = calibrate(finder, test, random)
    found = finder.find(train)
    flagged = np.flatnonzero(found.score >= threshold)
    order = flagged[np.argsort(-found.score[flagged], kind="stable")][:SHOWN]
    pairs = [
        {"train_id": train_ids[one], "test_id": test_ids[found.index[one]], "score": float(found.score[one])}
        for one in order
    ]
    print("audit: comparing the training images with each other", file=sys.stderr, flush=True)
    if len(train) > MAX_WITHIN:
        train = train[np.sort(random.choice(len(train), MAX_WITHIN, replace=False))]
    own = CopyFinder(train).find(train, np.arange(len(train))).score if len(train) > 1 else np.zeros(0)
    repeated = int((own >= threshold).sum())
    return CopyReport(len(test), len(found.score), threshold, len(flagged), repeated, len(train), pairs)


def calibrate(finder: Any, known: np.ndarray, random: np.random.Generator, count: int = CALIBRATION) -> float:
    """Threshold that `FALSE_ALARMS` of the known images reach with their nearest other, within `FLOOR` and `CEILING`."""
    chosen = random.permutation(len(known))[:count]
    scores = finder.find(known[chosen], chosen).score
    return float(np.clip(np.quantile(scores, 1 - FALSE_ALARMS), FLOOR, CEILING))


def _sampled(snapshot: Snapshot, where: str, count: int, random: np.random.Generator, *, own: bool) -> list[str]:
    """`count` of the ids for which a condition holds, 0 for all, sorted."""
    scan = snapshot.scan if own else snapshot.scan_all
    ids = pa.concat_arrays([pa.array([], pa.string()), *(batch.column("id") for batch in scan(["id"], where))])
    order = pc.sort_indices(ids)
    if count and len(ids) > count:
        order = order.take(pa.array(np.sort(random.choice(len(ids), count, replace=False))))
    found: list[str] = ids.take(order).to_pylist()
    return found


def _pixels(snapshot: Snapshot, ids: list[str]) -> tuple[list[str], np.ndarray]:
    """The ids whose images decode, and `[N, 32, 32, 3]` uint8."""
    pixels = np.zeros((len(ids), 32, 32, 3), np.uint8)
    is_there = np.zeros(len(ids), bool)
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for places, part in snapshot.fetch_parts(ids, ["image"], READ_AT_ONCE):
            for place, small in zip(places, pool.map(_small, part.column("image").to_pylist()), strict=True):
                if small is not None:
                    pixels[place], is_there[place] = small, True
    return [ids[place] for place in np.flatnonzero(is_there)], pixels if is_there.all() else pixels[is_there]


def _small(encoded: bytes) -> np.ndarray | None:
    """The image at 32 pixels; None if it does not decode, which `imagefoundry verify` reports."""
    from engine.evaluation.near_duplicates import resized
    from engine.images import decode_image

    try:
        return resized(decode_image(encoded))
    except ValueError:
        return None
