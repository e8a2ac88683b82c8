"""Precision and recall of the caption filter on the miniature pool, whose wrong captions are known.

`python -m benchmarks.caption_filter`. No BLIP-2 and no BERT are here: the miniature encoder stands in for both. Its caption of an
image is the class name that the image is most similar to, among all that the pool names; the similarity of that name and the
claimed one is the cosine of the encoder's texts. The shape of the filter is the paper's; the models are not.
"""

from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.common import machine
from engine.catalog.corpus import read_images
from engine.catalog.worlds import resolve_location
from engine.images import decode_image
from engine.models import load_encoder
from engine.sources.retrieval import read_pool
from engine.world.classes import taught_classes
from engine.world.pool import SHARD_SIZE, PoolImage, plan_shard

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WORLD_SEED = 0


@dataclass(frozen=True)
class Config:
    """The images."""

    images: int = 4_000
    """Images of the pool, from its first on."""
    encoder: str = "mini-clip"
    """Encoder that stands in for captioner and text similarity."""


def main(config: Config) -> None:
    """Prints a table by threshold, and what is lost by domain at the paper's."""
    import torch

    location = resolve_location("world:mini-web")
    index, encoder = read_pool(location), load_encoder(config.encoder)
    truth = [
        one
        for start in range(0, config.images, SHARD_SIZE)
        for one in plan_shard(WORLD_SEED, range(start, start + SHARD_SIZE))
    ]
    truth = truth[: config.images]
    captions = [str(text) for text in index.texts[: len(truth)]]
    if captions != [one.caption for one in truth]:
        raise SystemExit("the pool is of another seed or release than its plan; render it again")
    rows = [number for number, one in enumerate(truth) if one.named]
    names = sorted({one.name for one in taught_classes()})
    texts = encoder.encode_texts([f"a photo of a {name}." for name in names])
    vectors = []
    for start in range(0, len(rows), 256):
        keys = [str(index.keys[number]) for number in rows[start : start + 256]]
        images = [
            torch.from_numpy(np.moveaxis(decode_image(data), 2, 0).copy()) for data in read_images(location, keys)
        ]
        vectors.append(encoder.encode_images(images).cpu().numpy())
    said = (np.concatenate(vectors) @ texts.T).argmax(axis=1)
    claimed = np.array([names.index(truth[number].named) for number in rows])
    scores = (texts[said] * texts[claimed]).sum(axis=1)
    report([truth[number] for number in rows], scores, config)


def report(truth: list[PoolImage], scores: np.ndarray, config: Config) -> None:
    """Prints the tables."""
    wrong = np.array([one.shown.name != one.named for one in truth])
    domains = np.array([one.domain for one in truth])
    print(f"{machine()}; {config.encoder} in place of BLIP-2 and BERT")
    print(f"{len(truth):,} images whose caption names a class, {wrong.mean():.1%} of them wrongly\n")
    print("| threshold | precision of 'wrong' | recall of 'wrong' | kept | right among the kept | right images kept |")
    print("|---|---|---|---|---|---|")
    for threshold in THRESHOLDS:
        left = scores < threshold
        precision, recall = (left & wrong).sum() / max(1, left.sum()), (left & wrong).sum() / wrong.sum()
        right = (~left & ~wrong).sum()
        print(
            f"| {threshold:g} | {precision:.1%} | {recall:.1%} | {(~left).mean():.1%} | {right / max(1, (~left).sum()):.1%} "
            f"| {right / (~wrong).sum():.1%} |"
        )
    print("\nRight images that the threshold of 0.8 loses, by domain:")
    for domain in sorted(set(domains)):
        chosen = (domains == domain) & ~wrong
        print(f"  {domain}: {(scores[chosen] < 0.8).mean():.1%} of {chosen.sum():,}")


if __name__ == "__main__":
    main(tyro.cli(Config))
