"""The Slurm script, run with stand-ins for Slurm's and Ray's programs: the job's code is its own, and a warning puts it back into the queue."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm.sh"
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$CALLS"
if [ "$1" = health-check ]; then [ -e "$CALLS.head" ]; exit; fi
[ -z "$HEAD_FAILS" ] || exit 1
[[ " $* " == *" --head "* ]] && touch "$CALLS.head"
exec sleep 600
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
[ "$1" = requeue ] || printf 'node1\\nnode2\\n'
"""
PYTHON = """#!/bin/bash
echo "python $*" >> "$CALLS"
trap 'echo "driver ended" >> "$CALLS"; exit 143' TERM
if [ "$1" = wait ]; then touch "$CALLS.running"; sleep 600 & wait; fi
exit "$1"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes."""
    programs = {
        "srun": SRUN,
        "ray": RAY,
        "scontrol": SCONTROL,
        "python": PYTHON,
        "sleep": '#!/bin/bash\nexec /bin/sleep "$1"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }
    place = {
        "HOME": str(tmp_path),
        "CALLS": str(tmp_path / "calls"),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    return os.environ | job | place | {"SLURM_GPUS_ON_NODE": "1", "HEAD_FAILS": ""}


def calls(slurm: dict[str, str]) -> str:
    return Path(slurm["CALLS"]).read_text()


@pytest.mark.parametrize("code", [0, 3])
def test_the_job_runs_beside_the_head_and_its_exit_code_is_the_scripts(slurm: dict[str, str], code: int):
    done = subprocess.run([SCRIPT, str(code), "--flag"], env=slurm, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    said = calls(slurm)
    assert "ray start --head --block --node-ip-address=node1 --port=20077" in said
    assert "--exclude=node1" in said
    assert f"python {code} --flag" in said
    assert not list((Path(slurm["HOME"]) / ".ray").iterdir()), "the token is deleted"


def test_a_warning_ends_the_driver_and_queues_the_job_again(slurm: dict[str, str]):
    job = subprocess.Popen([SCRIPT, "wait"], env=slurm, stderr=subprocess.PIPE, text=True)
    while not Path(slurm["CALLS"] + ".running").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 143
    said = calls(slurm)
    assert "scontrol requeue 77" in said
    assert "driver ended" in said


def test_a_head_that_does_not_start_is_said(slurm: dict[str, str]):
    done = subprocess.run(
        [SCRIPT, "0"],
        env=slurm | {"HEAD_FAILS": "1", "SLURM_JOB_NUM_NODES": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Ray's head did not start on node1" in done.stderr


def test_no_job_is_an_error_with_the_command(slurm: dict[str, str]):
    done = subprocess.run([SCRIPT], env=slurm, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch" in done.stderr
