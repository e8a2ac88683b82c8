"""The benchmark of embedding runs to its end: every image is embedded once, and every figure is there."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import embed_throughput
from benchmarks.common import Speed, TreeClock
from benchmarks.embed_peers import photos_in
from engine.images import decode_image


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_it_prints_the_speeds_and_their_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    arguments = ["--images", "600", "--pairs", "1", "--photos", str(tmp_path)]  # three leases
    monkeypatch.setattr(sys, "argv", ["embed_throughput", *arguments])
    embed_throughput.main()
    out = capsys.readouterr().out
    names = ("bare loop", "engine", "engine, processor", "engine ÷ bare loop", "the same by processor seconds")
    for name in names:
        (median,) = re.findall(rf"^{re.escape(name)} +median +([\d.]+)", out, re.MULTILINE)
        assert float(median) > 0
    photos = [path.read_bytes() for path in photos_in(tmp_path)]
    assert len(set(photos)) == 600
    assert decode_image(photos[0]).shape == (375, 500, 3)


def test_a_peer_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["embed_throughput", "--peer-python", "/nowhere/python"])
    with pytest.raises(SystemExit, match="there is no /nowhere/python; the help says how"):
        embed_throughput.main()


def test_the_speed_leaves_the_first_quarter_out():
    clock = TreeClock()
    clock.samples += [(0.0, 0.0), (10.0, 5.0), (20.0, 7.0)]
    speed = Speed.of([(5.0, 10), (10.0, 25), (20.0, 100)], clock)
    assert (speed.per_second, speed.cpu_seconds) == (7.5, 2.0 / 75)


def test_processor_seconds_are_those_of_all_processes_below_also_of_those_that_ended():
    started = time.monotonic()
    with TreeClock() as clock:
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 2: pass"], check=True)
    assert clock.at(time.monotonic()) - clock.at(started) > 1
