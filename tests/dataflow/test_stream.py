import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.dataflow.progress import Progress
from engine.dataflow.run import _distinct
from engine.dataflow.stream import ROWS_PER_BLOCK, cut_blocks
from tests.dataflow.paint import PaintPlan


@given(st.integers(0, 5000), st.integers(1, 700), st.integers(1, 9))
def test_blocks_hold_every_index_once_and_begin_and_end_small(num: int, batch: int, actors: int):
    pending = np.arange(num) * 3
    blocks = [block.column("index").to_numpy() for block in cut_blocks(pending, batch, actors)]
    assert np.array_equal(np.concatenate([*blocks, np.zeros(0, int)]), pending)
    assert all(0 < len(block) <= max(batch, ROWS_PER_BLOCK) for block in blocks)
    assert all(len(block) <= batch for block in (*blocks[:1], *blocks[-1:]))


def test_equal_recipes_of_a_plan_are_made_once():
    class Twice(PaintPlan):
        def __len__(self) -> int:
            return 2 * self.num

        def __getitem__(self, index: int):
            return PaintPlan(self.num)[index % self.num]

    ids, indices = _distinct(Twice(50))
    assert sorted(indices) == list(range(50))
    assert {one.tobytes().hex() for one in ids} == {PaintPlan(50)[index].id for index in range(50)}


def test_progress_tells_rows_rate_time_left_and_dollars():
    stream = io.StringIO()
    progress = Progress("generate", 2000, stream)
    progress.add(995, 5, 0.125)
    progress.close()
    line = stream.getvalue()
    assert line.startswith("generate  1,000/2,000 rows  ")
    assert "rows/s  ETA 00:" in line
    assert line.endswith("$0.1250 so far  5 errors\n")
