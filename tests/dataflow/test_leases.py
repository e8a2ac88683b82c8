from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.dataflow import leases
from engine.dataflow.leases import Backlog, Lease, LeaseSize
from engine.store import IdSet
from engine.testing.makers import PaintPlan


def reads(source: str) -> bool:
    return source == "original"


@dataclass(frozen=True)
class RepeatedPlan(PaintPlan):
    """Each recipe again and again."""

    times: int = 2

    def __len__(self) -> int:
        return self.num * self.times

    def __getitem__(self, index: int):
        return PaintPlan(self.num, self.num_read)[index % self.num]


def taken(backlog: Backlog, size: int = 7) -> list[Lease]:
    found = []
    while lease := backlog.take(lambda reads: size):
        found.append(lease)
    backlog.close()
    return found


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 3),
    st.one_of(
        st.sets(st.integers(0, 299)), st.integers(0, 300).map(lambda end: set(range(end)))
    ),  # a run that was killed has a prefix
    st.integers(1, 40),
)
def test_every_missing_recipe_is_leased_once_whatever_the_windows(num, num_read, times, done, size):
    plan = RepeatedPlan(num, min(num, num_read), times)
    done = {index for index in done if index < num}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "FIRST_WINDOW", 5)
        patch.setattr(leases, "WINDOW", 37)
        backlog = Backlog(plan, IdSet([[plan[index].id for index in sorted(done)]]), reads)
        handed = taken(backlog, size)
    indices = [int(index) for lease in handed for index in lease.indices]
    # of equal recipes any one is made
    assert sorted(index % num for index in indices) == sorted(set(range(num)) - done)
    assert all(0 < len(lease) <= size for lease in handed)
    assert all(reads(plan[int(index)].source) == lease.reads for lease in handed for index in lease.indices)
    assert backlog.num_present == len(plan) - len(indices)
    assert np.array_equal(np.flatnonzero(backlog.is_pending), sorted(indices))
    assert len(backlog.pending_ids()) == len(indices)
    assert backlog.most_left == 0


class CountingPlan(PaintPlan):
    """Notes the recipes that are computed."""

    hashed: ClassVar[list[int]] = []

    def __getitem__(self, index: int):
        self.hashed.append(index)
        return super().__getitem__(index)


def test_the_first_lease_is_out_before_the_plan_is_hashed():
    plan = CountingPlan(1_000_000)
    plan.hashed.clear()
    backlog = Backlog(plan, IdSet(), reads)
    assert len(backlog.take(lambda reads: 64)) == 64
    backlog.close()
    assert len(plan.hashed) < 250_000


def test_a_resumed_run_begins_with_what_it_lacks(monkeypatch):
    monkeypatch.setattr(leases, "WINDOW", 5_000)
    num, num_done = 100_000, 90_000
    plan = CountingPlan(num)
    done = IdSet([[plan[index].id for index in range(num_done)]])
    plan.hashed.clear()
    backlog = Backlog(plan, done, reads)
    lease = backlog.take(lambda reads: 64)
    hashed = len(plan.hashed)
    assert all(index >= num_done - leases.WINDOW for index in lease.indices)
    assert hashed < 4 * leases.WINDOW
    leased = [int(index) for lease in [lease, *taken(backlog, 512)] for index in lease.indices]
    assert sorted(leased) == list(range(num_done, num))
    assert backlog.num_present == num_done


def test_a_finished_plan_leaves_nothing():
    plan = PaintPlan(50)
    backlog = Backlog(plan, IdSet([[plan[index].id for index in range(50)]]), reads)
    assert not backlog
    assert backlog.num_present == 50
    backlog.close()


def test_what_is_put_back_comes_first():
    backlog = Backlog(PaintPlan(40, num_read=4), IdSet(), reads)
    first = backlog.take(lambda reads: 4)
    backlog.take(lambda reads: 8)
    backlog.put_back(first)
    backlog.put_back_indices([9, 2])
    again = [backlog.take(lambda reads: 8) for _ in range(3)]
    assert [lease.indices.tolist() for lease in again] == [[0, 1, 2, 3], [2], [9]]
    assert [lease.reads for lease in again] == [True, True, False]
    backlog.close()


def test_leases_begin_with_a_batch_double_and_end_small():
    size = LeaseSize(32)
    assert [size.next(False, 100_000, 2) for _ in range(6)] == [32, 64, 128, 256, 512, 512]
    assert [size.next(False, left, 4) for left in (1000, 300, 10)] == [96, 32, 32]


def test_leases_of_slow_models_take_ten_seconds():
    size = LeaseSize(8)
    for _ in range(10):
        size.learn(False, 8, 4.0)
        handed = size.next(False, 100_000, 1)
    assert handed == 16
    size.learn(True, 1000, 1.0)
    assert size.next(True, 100_000, 1) == 8
