from collections import deque
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.dataflow.attempts import judge, told
from engine.dataflow.leases import Lease
from engine.failures import RunFailed


def run(num: int, batch: int, killers: set[int], deaths_elsewhere: list[bool]) -> tuple[set[int], set[int], int]:
    """Plays workers that die at killers, and where `deaths_elsewhere` says so; (made, blamed, deaths)."""
    queue = deque([Lease(np.arange(num))])
    made, blamed, deaths = set(), set(), 0
    while queue:
        lease = queue.popleft()
        step = 1 if lease.care == 2 else batch
        died = False
        for start in range(0, len(lease), step):
            part = lease.indices[start : start + step]
            stray = bool(deaths_elsewhere and deaths_elsewhere.pop())
            if stray or killers & set(part.tolist()):
                deaths += 1
                verdict = judge(lease, part if lease.care else None)
                queue.extend(one for one in verdict.again if len(one))
                blamed |= set(verdict.killers)
                died = True
                break
        if not died:
            made |= set(lease.indices.tolist())
        assert deaths < 1000
    return made, blamed, deaths


@given(st.integers(1, 600), st.integers(1, 64), st.sets(st.integers(0, 599), max_size=5))
def test_only_recipes_that_kill_become_errors_and_each_after_four_deaths_at_most(num, batch, killers):
    killers = {killer for killer in killers if killer < num}
    made, blamed, deaths = run(num, batch, killers, [])
    assert blamed == killers
    assert made == set(range(num)) - killers
    assert deaths <= 4 * len(killers)


@given(st.integers(1, 300), st.integers(1, 64), st.sets(st.integers(0, 299), max_size=3), st.integers(0, 3))
def test_three_deaths_for_other_reasons_blame_nobody(num, batch, killers, strays):
    killers = {killer for killer in killers if killer < num}
    made, blamed, _ = run(num, batch, killers, [True] * strays)
    assert killers <= blamed
    assert made | blamed == set(range(num))
    if not killers:
        assert not blamed


def test_a_lease_that_dies_without_a_note_is_halved_down_to_the_recipe():
    queue, blamed = deque([Lease(np.arange(8))]), []
    for _ in range(200):
        if not queue:
            break
        lease = queue.popleft()
        if 5 in lease.indices:
            verdict = judge(lease, None)
            queue.extend(one for one in verdict.again if len(one))
            blamed += verdict.killers
    assert blamed == [5]


def test_a_workers_own_sentence_reaches_the_user():
    def task_error(cause: Exception) -> SimpleNamespace:
        return SimpleNamespace(cause=cause)

    full = told(task_error(OSError("No space left on device (os error 28)\nat this place")))
    assert isinstance(full, RunFailed)
    assert str(full).startswith("a worker cannot go on (No space left on device (os error 28)); fix that")
    wrong = ValueError("the weights are missing; download them again")
    assert told(task_error(wrong)) is wrong
    other = task_error(KeyError("a mistake in the program"))
    assert told(other) is other
