"""A handful of the rounds of `benchmarks.chaos`; `python -m benchmarks.chaos` plays a hundred."""

import pytest

from benchmarks.chaos import Damage, play

pytestmark = pytest.mark.cluster
SEEDS = (302, 305, 308)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_round_of_random_damage_ends_exactly_right(seed: int):
    found = play(seed)
    assert found["right"], found["problems"]


def test_the_rounds_above_hold_every_kind_of_damage():
    damage = [Damage.drawn(seed) for seed in SEEDS]
    assert {kind for one in damage for kind, _ in one.driver_events} == {"SIGKILL", "SIGTERM", "raylet"}
    assert {kind for one in damage for kind in one.commits} >= {"fail", "lose"}
    assert any(one.poison for one in damage)
    assert {stage for one in damage for stage, _ in one.worker_kills} == {"make", "write"}
