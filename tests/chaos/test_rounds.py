"""A handful of the rounds of `benchmarks.chaos`, on one Ray; the command plays a hundred."""

from collections.abc import Iterator

import pytest

from benchmarks.chaos import Damage
from benchmarks.chaos_rounds import Arena, play
from benchmarks.chaos_store import moto

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(moto() is None, reason="needs moto_server")]
SEEDS = (33, 43, 50)


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena() as one:
        yield one


@pytest.mark.parametrize("seed", SEEDS)
def test_a_round_of_random_damage_ends_exactly_right(arena: Arena, seed: int):
    found = play(arena, Damage.drawn(seed))
    assert found["right"], found["problems"]


def test_the_rounds_above_hold_most_kinds_of_damage():
    damage = [Damage.drawn(seed) for seed in SEEDS]
    kinds = {kind for one in damage for kind in one.kinds}
    assert kinds >= {"SIGTERM", "stop", "node", "takeover", "on s3", "on disk", "bad", "poison"}
    assert kinds >= {"worker make", "worker full"}
    assert kinds >= {"commit die after", "commit fail", "commit lose", "commit full"}
