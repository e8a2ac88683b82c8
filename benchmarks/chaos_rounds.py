"""Plays a round of `benchmarks.chaos` from outside: runs the driver, lets the events come, and compares what is left with the plan."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.chaos import ChaosPlan, Damage
from benchmarks.chaos_store import BUCKET, FaultyProxy, s3_server, settings
from engine.dataflow.cluster import START_ATTEMPTS

MOST_RUNS = 16
"""Times that a round's command is run; events end far fewer."""
HANGS_AFTER = 900.0
"""Seconds after which a run counts as hung."""


class Arena:
    """What the rounds share: an S3 server behind its proxy, and a Ray; a context manager.

    Rounds that kill a raylet have a Ray of their own; those that kill a node add theirs to the shared one.
    """

    def __enter__(self) -> "Arena":
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp"))
            self.folder = Path(folder)
            port = stack.enter_context(s3_server(self.folder))
            self.proxy = stack.enter_context(FaultyProxy(port))
            before = {name: os.environ.get(name) for name in settings(port)}
            stack.callback(_restore, before)
            os.environ.update(settings(port))  # what this process reads of the tables goes around the proxy
            kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            kept |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", "IMAGEFOUNDRY_DEVICE": "cpu"}
            kept |= settings(self.proxy.port)
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.address = f"127.0.0.1:{free.getsockname()[1]}"
            self.plain = kept
            self.shared = kept | token | {"RAY_ADDRESS": self.address}
            self._quick = {"RAY_health_check_failure_threshold": "3", "RAY_health_check_period_ms": "1000"}
            port_of_ray = self.address.rpartition(":")[2]
            head = self._start("--head", f"--port={port_of_ray}", "--num-cpus=8", "--num-gpus=0")
            stack.callback(end, head)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_node(self) -> "subprocess.Popen[bytes]":
        """A node of one processor and one logical GPU."""
        return self._start(f"--address={self.address}", "--num-cpus=1", "--num-gpus=1")

    def _start(self, *options: str) -> "subprocess.Popen[bytes]":
        """A started Ray; tried again, since a busy machine may exceed the 30 s that Ray gives it."""
        environment = self.shared | self._quick
        environment.pop("RAY_ADDRESS")
        said = self.folder / f"ray-{secrets.token_hex(4)}.log"
        for attempt in range(START_ATTEMPTS):
            command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *options]
            if "--head" in options:  # the nodes use the head's folder
                command += ["--include-dashboard=false", f"--temp-dir={self.folder}/ray-{attempt}"]
            with said.open("ab") as log:
                one = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            while one.poll() is None:
                if "Ray runtime started" in said.read_text():
                    return one
                time.sleep(0.2)
        raise RuntimeError(f"Ray did not start: {said.read_text()[-500:]}")


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def end(process: "subprocess.Popen[bytes]", *, at_once: bool = False) -> None:
    """Ends a process and all below it."""
    import psutil

    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
        if not at_once:
            process.terminate()
            psutil.wait_procs(below, timeout=10)
        for one in below:
            with suppress(psutil.Error):
                one.kill()
        process.kill()
    process.wait()


class Round:
    """One round in progress."""

    def __init__(self, arena: Arena, damage: Damage, stop_seconds: float, folder: Path) -> None:
        from engine.store import Workspace

        self._arena, self._damage, self._stop_seconds, self._folder = arena, damage, stop_seconds, folder
        place = f"s3://{BUCKET}/{folder.name}" if damage.store == "s3" else str(folder / "workspace")
        self.workspace = Workspace.open(place)
        self.codes: list[int] = []
        self.said = ""
        self.problems: list[str] = []
        is_private = "raylet" in dict(damage.driver_events)
        self._environment = arena.plain if is_private else arena.shared
        has_nodes = "node" in dict(damage.driver_events)
        self._nodes = [arena.add_node() for _ in range(2)] if has_nodes else []
        self._number = 0

    def close(self) -> None:
        """Ends the nodes of the round."""
        for node in self._nodes:
            end(node)

    def play(self) -> None:
        """Runs the command until it succeeds."""
        events = list(self._damage.driver_events)
        while (not self.codes or self.codes[-1] != 0) and len(self.codes) < MOST_RUNS:
            self._run(events.pop(0) if events else None)

    def _start(self) -> "tuple[subprocess.Popen[bytes], Path]":
        self._number += 1
        said = self._folder / f"said-{self._number}.txt"
        options = {"folder": self._folder, "workspace": self.workspace.uri, "seed": self._damage.seed}
        options |= {"rows": self._damage.rows, "stop-seconds": self._stop_seconds}
        command = [sys.executable, "-m", "benchmarks.chaos", "drive"]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with said.open("wb") as out:
            return subprocess.Popen(command, env=self._environment, stdout=out, stderr=out), said

    def _run(self, event: tuple[str, int] | None) -> None:
        """Runs the driver, and lets the event come when the table has so many rows."""
        driver, said = self._start()
        deadline = time.monotonic() + HANGS_AFTER
        while driver.poll() is None and time.monotonic() < deadline:
            if event and self.workspace.count() >= event[1]:
                if event[0] == "takeover":
                    self._take_over(driver, said)
                    return
                self._let_come(event[0], driver)
                event = None
            time.sleep(0.1)
        self._note(driver, said)

    def _note(self, driver: "subprocess.Popen[bytes]", said: Path) -> None:
        if driver.poll() is None:
            self.problems.append("it hung")
            driver.kill()
        self.codes.append(driver.wait())
        self.said = said.read_text(errors="replace")

    def _take_over(self, first: "subprocess.Popen[bytes]", said: Path) -> None:
        """Stops the driver until another has ended the plan, and wakes it up.

        One that had ended its run by then, and was merging files, may end well: it has nothing left to lose.
        """
        first.send_signal(signal.SIGSTOP)
        try:
            had_ended = "finished" in self.workspace.runs()["status"].to_pylist()
            self._run(None)
            rows, second = self.workspace.count(), self.said
        finally:
            first.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            first.wait(300)
        self._note(first, said)
        self.codes[-2:] = reversed(self.codes[-2:])
        if not had_ended and (self.codes[-2] == 0 or "took over" not in self.said):
            self.problems.append(f"the driver that was taken over ended with {self.codes[-2]}: {self.said[-300:]}")
        if self.codes[-1] == 0 and self.workspace.count() != rows:
            self.problems.append(f"the driver that was taken over changed {rows} rows to {self.workspace.count()}")
        self.said = second

    def _let_come(self, kind: str, driver: "subprocess.Popen[bytes]") -> None:
        import psutil

        if kind == "stop":
            driver.send_signal(signal.SIGSTOP)
            time.sleep(self._stop_seconds)
            driver.send_signal(signal.SIGCONT)
        elif kind == "node":
            end(self._nodes.pop(), at_once=True)
        elif kind == "raylet":
            for child in psutil.Process(driver.pid).children(recursive=True):
                with suppress(psutil.Error):  # a process that has just ended
                    if re.search(r"/raylet/raylet\b", " ".join(child.cmdline())):
                        child.kill()
        else:
            driver.send_signal(getattr(signal, kind))

    def compare(self) -> None:
        """Adds to `problems` whatever is not as planned."""
        damage, workspace = self._damage, self.workspace
        if self.codes[-1] != 0:
            self.problems.append(f"it never ended: {self.codes}, {self.said[-500:]}")
        plan, odd = ChaosPlan(damage.rows), {*damage.poison, *damage.bad}
        wanted = {plan[index].id for index in range(damage.rows) if index not in odd}
        ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
        if len(ids) != len(wanted) or set(ids) != wanted:
            counts = {
                "distinct": len(set(ids)),
                "missing": len(wanted - set(ids)),
                "not wanted": len(set(ids) - wanted),
            }
            self.problems.append(f"{len(ids)} rows, {counts}")
        errors = sorted(workspace.errors()["seed"].to_pylist())
        if errors != sorted(odd):
            self.problems.append(f"errors {errors} instead of {sorted(odd)}")
        if findings := workspace.verify().findings:
            self.problems.append(f"the workspace is damaged: {findings[:3]}")
        made = sum(row["images"] for row in workspace.runs().to_pylist())
        by_stage = {"make": 0, "embed": 0}
        for row in workspace.ledger().to_pylist():
            by_stage[row["stage"]] += row["rows"]
        if {made, by_stage["make"]} != {len(ids)}:
            self.problems.append(f"{len(ids)} rows, but {made} in runs and {by_stage} in the ledger")
        if orphans := self._orphans():
            self.problems.append(f"{len(orphans)} files that no table names, {sorted(orphans)[:3]}")

    def _orphans(self) -> set[str]:
        """Data files that a clean-up leaves although the newest version does not name them."""
        import fsspec

        with self.workspace.lock("clean"):
            self.workspace.compact(keep_versions_for=timedelta(0))
        found: set[str] = set()
        for name in ("images", "errors"):
            dataset = self.workspace.dataset(name)
            named = {file.path for one in dataset.get_fragments() for file in one.metadata.files}
            files, place = fsspec.core.url_to_fs(f"{self.workspace.table_uri(name)}/data", use_listings_cache=False)
            with suppress(FileNotFoundError):
                found |= {str(one).rpartition("/")[2] for one in files.ls(place, detail=False)} - named
        return found


def play(arena: Arena, damage: Damage, stop_seconds: float = 1.0) -> dict[str, Any]:
    """Plays a round; returns its result."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="round-", dir="/tmp") as name:
        one = Round(arena, damage, stop_seconds, Path(name))
        try:
            one.play()
            one.compare()
        finally:
            one.close()
    return {
        "seed": damage.seed,
        "right": not one.problems,
        "problems": one.problems,
        "codes": one.codes,
        "seconds": round(time.monotonic() - started, 1),
        "kinds": damage.kinds,
        "damage": json.loads(json.dumps(asdict(damage))),
    }
