import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.store import Workspace
from engine.store.lock import LOCK_NAME

HOLD = """
import sys, time
from engine.store import Workspace
with Workspace.open(sys.argv[1], create=False).lock("run-of-the-dead"):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_run_is_refused_with_the_name_of_the_first(workspace):
    second = Workspace.open(workspace.uri)
    sentence = (
        r"run first \(pid \d+ on .*, started .*\) is writing to workspace .*; wait until it ends, stop that process"
    )
    with workspace.lock("first"), pytest.raises(ValueError, match=sentence), second.lock("second"):
        pass
    with second.lock("second"):
        assert json.loads((Path(workspace.uri) / LOCK_NAME).read_text())["run_id"] == "second"


def test_a_failing_run_frees_the_lock(workspace):
    with pytest.raises(KeyError), workspace.lock("first"):
        raise KeyError
    with Workspace.open(workspace.uri).lock("second"):
        pass


def test_a_killed_process_frees_the_lock_at_once(workspace):
    process = subprocess.Popen([sys.executable, "-c", HOLD, workspace.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with (
            pytest.raises(ValueError, match=re.escape(f"run run-of-the-dead (pid {process.pid} on")),
            workspace.lock("b"),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with workspace.lock("resumed"):
        pass


def test_compaction_needs_the_lock(workspace):
    with pytest.raises(AssertionError, match="hold the lock"):
        workspace.compact()
