"""Commits go on while files are merged, however long that takes."""

import threading

from engine.dataflow.ticker import Ticker
from engine.progress import Progress
from engine.store import Committer, Workspace, write_fragments
from tests.store.helpers import image_rows


def test_commits_go_on_beside_one_maintenance_at_a_time(tmp_path):
    workspace = Workspace.open(tmp_path / "workspace")
    committer = Committer(workspace, every_seconds=0.0)
    begun, may_end = threading.Semaphore(0), threading.Event()

    def maintain():
        begun.release()
        assert may_end.wait(60)

    ticker = Ticker(committer, Progress("t", 1), lambda: True, maintain)
    for number in range(3):
        committer.add(write_fragments(workspace.uri, "images", image_rows([number])))
        ticker.tick()
        assert workspace.count() == number + 1
    assert begun.acquire(timeout=60)
    assert not begun.acquire(blocking=False)
    may_end.set()
    ticker._maintaining.join(60)
    ticker.tick()
    assert begun.acquire(timeout=60)
    ticker._maintaining.join(60)
