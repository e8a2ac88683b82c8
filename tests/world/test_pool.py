"""The web pool is as untidy as promised, no more and no less."""

from collections import Counter

import numpy as np

from engine.world.classes import class_names, taught_classes
from engine.world.pool import DOMAINS, SHARD_SIZE, PoolImage, draw_shard, plan_shard
from engine.world.write import WorldConfig


def _plan(num: int) -> list[PoolImage]:
    shards = [range(start, min(start + SHARD_SIZE, num)) for start in range(0, num, SHARD_SIZE)]
    return [image for shard in shards for image in plan_shard(0, shard)]


def test_a_fifth_of_the_captions_is_wrong() -> None:
    named = [image for image in _plan(10_000) if image.named]
    wrong = sum(image.named != image.shown.name for image in named) / len(named)
    assert 0.15 < wrong < 0.30
    assert all(image.named in image.caption for image in named)


def test_every_named_class_has_five_hundred_captions() -> None:
    counts = Counter(image.named for image in _plan(WorldConfig().pool_images))
    assert min(counts[item.name] for item in taught_classes()) >= 500


def test_novel_classes_are_neither_shown_nor_named() -> None:
    novel = class_names("mini-novel")
    for image in _plan(10_000):
        assert image.shown.name not in novel
        assert not any(name in image.caption for name in novel)


def test_near_duplicates_and_other_domains_have_their_share() -> None:
    plan = _plan(10_000)
    assert 0.08 < np.mean([image.duplicate for image in plan]) < 0.12
    assert 0.12 < np.mean([image.domain != "photo" for image in plan]) < 0.18
    assert {image.domain for image in plan} == {"photo", *DOMAINS}


def test_a_near_duplicate_is_near_and_no_copy() -> None:
    shard = range(0, 400)
    plan = plan_shard(0, shard)
    images = draw_shard(0, plan, shard, 32).astype(np.float32)
    originals = {(image.shown.name, image.index): place for place, image in enumerate(plan) if not image.duplicate}
    twins = [(originals[image.shown.name, image.index], place) for place, image in enumerate(plan) if image.duplicate]
    assert len(twins) > 20
    like = []
    for first, second in twins:
        assert not np.array_equal(images[first], images[second])
        like.append(np.corrcoef(images[first].ravel(), images[second].ravel())[0, 1])
    strangers = [np.corrcoef(images[a].ravel(), images[a + 1].ravel())[0, 1] for a in range(0, 300, 2)]
    assert np.median(like) > 0.6 > np.median(strangers)


def test_a_shard_is_planned_alike_whoever_plans_it() -> None:
    assert plan_shard(0, range(2000, 2100)) == plan_shard(0, range(2000, 2100))
    assert plan_shard(0, range(2000, 2100)) != plan_shard(1, range(2000, 2100))
