#!/usr/bin/env python3
"""Starts a Ray head on this machine, submits a job to it as to a cluster, prints the job's output, and stops the head.

python deploy/submit_locally.py -- --shots 1 5 20 --workspace /path/to/workspace --report /path/to/report
"""

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.dataflow.cluster import SMALL_MACHINE, START_ATTEMPTS

ROOT = Path(__file__).resolve().parents[1]


def free_ports(num: int) -> list[int]:
    """Ports of the loopback interface that are free now, all different."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(num)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


@contextmanager
def head_node(start_seconds: float = 120.0) -> Iterator[dict[str, str]]:
    """A Ray head with token authentication; yields the environment that `ray job submit` needs.

    Ray itself listens on every interface, so only the token keeps others out; the dashboard listens on loopback only.
    """
    folder = Path(tempfile.mkdtemp(prefix="foundry-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    dashboard, *agents = free_ports(5)
    environment = {
        **os.environ,
        # both sides need it: `ray start` enables tokens by itself, the submit client does not
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        **SMALL_MACHINE,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        f"--port={agents[0]}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        # the agent accepts jobs, and another Ray on this machine may hold its default port
        f"--dashboard-agent-listen-port={agents[1]}",
        f"--dashboard-agent-grpc-port={agents[2]}",
        f"--metrics-export-port={agents[3]}",
    ]
    log = (folder / "head.log").open("wb")
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    heads: list[subprocess.Popen] = []
    try:
        while True:
            # from the project's folder, so that a bare `ray job submit jobs/x.py` finds the job there
            head = subprocess.Popen(
                [*command, f"--temp-dir={folder / 'ray'}"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            heads.append(head)
            try:
                _wait(head, environment, time.monotonic() + start_seconds, folder / "head.log")
                break
            except SystemExit:  # a busy machine may miss the half minute that Ray gives its processes
                if len(heads) == START_ATTEMPTS:
                    raise
                _stop(head)
        yield environment
    finally:
        for head in heads:
            _stop(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _stop(head: subprocess.Popen) -> None:
    head.send_signal(signal.SIGTERM)  # has no effect on a process that has ended
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)  # a session of its own, so it contains only what this program started


def _wait(head: subprocess.Popen, environment: dict[str, str], deadline: float, log: Path) -> None:
    """Waits until a job can be submitted: the head answers some seconds before its agent accepts jobs."""
    probe = ["ray", "job", "submit", "--no-wait", "--", "true"]
    said = ""
    while time.monotonic() < deadline and head.poll() is None:
        submitted = subprocess.run(probe, env=environment, capture_output=True, text=True)
        if submitted.returncode == 0:
            return
        said = submitted.stdout + submitted.stderr
        time.sleep(1)
    raise SystemExit(f"the head node did not start:\n{log.read_text(errors='replace')[-1000:]}\n{said[-1000:]}")


def main() -> int:
    """Submits the job with the arguments after `--`; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="jobs/genbench_500shot.py", help="script to run, relative to the project")
    parser.add_argument("arguments", nargs="*", help="arguments of the job, after --")
    options = parser.parse_args()
    with head_node() as environment:
        submit = ["ray", "job", "submit", "--working-dir", str(ROOT), "--", "python", options.job, *options.arguments]
        return subprocess.run(submit, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
