#!/usr/bin/env python3
"""The server under load from another process on loopback: latency, throughput, overload, a long run, and killed processes.

    python -m benchmarks.serve kill --process generator
    python -m benchmarks.serve kill --process writer
    python -m benchmarks.serve kill --process ingress --retries 2       # as openai's client does by default
    python -m benchmarks.serve throughput --keys 4
    python -m benchmarks.serve added
    python -m benchmarks.serve overload
    python -m benchmarks.serve soak --minutes 20

Each starts a server of its own on Ray Serve with the miniature models, over a new workspace. `benchmarks.serve_load` sends the
requests; every one has a seed of its own, so that no answer comes from the table unless it is meant to.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from benchmarks.common import machine, show
from benchmarks.serve_load import Answer, Plan, bitmap
from benchmarks.serve_peers import BATCH, bare_rate, batch_application, loaded, recipe_of, reference_of

MIXES = {
    "sizes": (("32x32", 37), ("48x48", 21), ("40x40", 27), ("64x64", 13)),
    "steps": (("16x16", 60), ("16x16", 59), ("16x16", 58), ("16x16", 57)),
}
"""Sizes and steps of which a picture of a batch of 8 takes 100 ms or more of one core; each is a compatibility key. A batch
of 8 makes pictures of `sizes` 2 to 4 times as fast as one by one, and pictures of `steps` 6 times as fast."""
PROMPT = "a photo of an apple"


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    key: str
    workspace: str

    def plan(self, bodies: Sequence[dict[str, Any]], **changed: Any) -> Plan:
        """A plan for its clients."""
        return replace(Plan(self.url, self.key, bodies, clients=1), **changed)


@contextmanager
def started(**settings: Any) -> Iterator[Server]:
    """A server over a new workspace, on a free port."""
    from engine.serving.config import ServeConfig
    from engine.serving.start import serving

    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = ServeConfig(workspace=f"{folder}/workspace", port=port, **{"max_batch": BATCH} | settings)
        before = time.perf_counter()
        with serving(config) as (url, key, _):
            print(f"{machine()}; started in {time.perf_counter() - before:.0f} s", flush=True)
            yield Server(url, key, config.workspace)


def bodies(keys: int, mix: str = "sizes") -> list[dict[str, Any]]:
    """Bodies of requests, one per compatibility key."""
    return [{"prompt": PROMPT, "size": size, "num_inference_steps": steps} for size, steps in MIXES[mix][:keys]]


class Load:
    """The clients of a plan, in a process of their own."""

    def __init__(self, plan: Plan):
        self.answers: list[Answer] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve_load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asdict(plan)))
        self._process.stdin.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.answers.append(Answer(**json.loads(line)))

    def wait(self) -> list[Answer]:
        """All answers."""
        self._reader.join()
        assert self._process.wait() == 0, "the load failed"
        return self.answers


def run(plan: Plan) -> list[Answer]:
    """The answers to a plan."""
    return Load(plan).wait()


def median_ms(answers: Sequence[Answer]) -> float:
    """Median time of the answers, which must all be good."""
    bad = [answer for answer in answers if answer.status not in (200, 201)]
    assert not bad, bad[:3]
    return statistics.median(answer.ms for answer in answers)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def statuses(answers: Sequence[Answer]) -> str:
    """Counts of statuses and codes, for people."""
    counts = Counter(f"{answer.status} {answer.code}".strip() for answer in answers)
    return ", ".join(f"{number} x {name}" for name, number in counts.most_common())


def processes() -> dict[int, tuple[str, float]]:
    """Pid → (name, resident megabytes) of the processes of the server that this process has started."""
    found = {}
    for one in psutil.Process().children(recursive=True):
        try:
            words = one.cmdline()
            name = words[0] if words and words[0].startswith("ray::") else one.name()
            if "serve_load" not in " ".join(words):
                found[one.pid] = name, one.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
    return found


def pids_of(part: str) -> list[int]:
    """Processes of a deployment whose name begins so."""
    return [pid for pid, (name, _) in processes().items() if f":{part}" in name and "ServeReplica" in name]


def kill(options: argparse.Namespace) -> None:
    """Kills one process with SIGKILL while clients wait for pictures, and checks what became of every request."""
    part = {"generator": "Generator", "writer": "Writer", "ingress": "Ingress"}[options.process]
    with started(replicas=2 if part == "Generator" else 1) as server:
        first = pids_of(part)
        print(f"processes of {part}: {first}; all: {sorted(name for name, _ in processes().values())}")
        mix = [body | {"size": "32x32"} for body in bodies(2)]
        load = Load(server.plan(mix, clients=8, seconds=options.seconds, retries=options.retries))
        for _ in range(options.kills):
            time.sleep(options.seconds / (options.kills + 1))
            victims = pids_of(part)
            if not victims:
                print("no process of the part lives; not back since the last kill")
                continue
            print(f"{len(load.answers)} answers; SIGKILL to {victims[0]} of {victims}", flush=True)
            os.kill(victims[0], signal.SIGKILL)
        answers = load.wait()
        show_kill(server, answers)
        time.sleep(1)
        print(f"processes of {part} at the end: {pids_of(part)}")


def show_kill(server: Server, answers: Sequence[Answer]) -> None:
    """Prints the counts: answers by status, recipes that the table has twice, acknowledged images that it lacks."""
    from engine.store import Workspace

    rows = Workspace.open(server.workspace).dataset("images").to_table(columns=["id"])["id"].to_pylist()
    twice = [one for one, number in Counter(rows).items() if number > 1]
    told = [one for answer in answers for one in answer.ids]
    times = [answer.ms for answer in answers]
    print(f"answers: {statuses(answers)}; {sum(answer.retried > 0 for answer in answers)} of them were asked for again")
    print(f"slowest {max(times) / 1e3:.1f} s, median {statistics.median(times):.0f} ms")
    print(f"acknowledged {len(told)}, of which the table lacks {len(set(told) - set(rows))}")
    print(f"rows {len(rows)}, recipes twice {len(twice)}, rows that nobody was told of {len(set(rows) - set(told))}")
    print("goal: all 200, 0 lacking, 0 twice", flush=True)


def throughput(options: argparse.Namespace) -> None:
    """Images per second of 32 clients, against a bare loop and against `@serve.batch`, in pairs."""
    mix = bodies(options.keys, options.mix)
    ratios: dict[str, list[float]] = {"bare loop": [], "@serve.batch": [], "bare loop, by CPU seconds": []}
    with started() as server:
        from ray import serve  # after Ray has its token

        serve.run(batch_application(), name="peer", route_prefix="/peer", logging_config={"log_level": "WARNING"})
        generator = loaded()
        for body in mix:
            bare_rate(generator, [body])
            costs = [f"{batch}: {1e3 * bare_rate(generator, [body], batch)[1]:.0f}" for batch in (1, 2, 4, BATCH)]
            print(f"{body['size']}, {body['num_inference_steps']} steps, CPU ms per image by batch size: {costs}")
        plan = server.plan(mix, clients=options.clients, seconds=options.seconds, shuffled=options.shuffled)
        run(replace(plan, seconds=10.0))  # the queue has measured no batch of these kinds before
        for _ in range(options.pairs):
            before, bare_cpu = bare_rate(generator, mix)
            ours, cpu = rate(server, plan)
            after, _ = bare_rate(generator, mix)
            theirs, _ = rate(server, replace(plan, kinds=("peer",)))
            print(f"bare {before:.2f} and {after:.2f}, ours {ours:.2f}, @serve.batch {theirs:.2f} images/s", flush=True)
            ratios["bare loop"].append(2 * ours / (before + after))
            ratios["@serve.batch"].append(ours / theirs)
            ratios["bare loop, by CPU seconds"].append(bare_cpu / cpu)
    show("server ÷ bare loop", ratios["bare loop"], "(goal: >= 0.9)")
    show("server ÷ @serve.batch", ratios["@serve.batch"], f"(goal: >= {2.5 if options.keys > 2 else 1.5})")
    name = "bare loop, by CPU seconds"
    show(f"server ÷ {name}", ratios[name], "(of the generator's process; other load on the machine changes it little)")


def rate(server: Server, plan: Plan) -> tuple[float, float]:
    """Images per second between the first quarter of the answers and the last before the clients stop.

    Also the CPU seconds per image of the process that used most of them.
    """
    began = time.time()
    used = {pid: psutil.Process(pid).cpu_times() for pid in processes()}
    answers = run(plan)
    most = 0.0
    for pid, (name, _) in processes().items():
        if pid in used:
            now = psutil.Process(pid).cpu_times()
            seconds = now.user + now.system - used[pid].user - used[pid].system
            most = max(most, seconds)
            if seconds > 0.05 * (time.time() - began):
                print(f"    {seconds / (time.time() - began):.2f} cores: {name}")
    median_ms(answers)
    times = sorted(answer.at for answer in answers if answer.at <= began + plan.seconds)
    sizes = Counter(answer.batch_size for answer in answers)
    print(f"  {plan.kinds[0]}: {len(answers)} images, batch sizes {dict(sorted(sizes.items()))}", flush=True)
    start = len(times) // 4
    return (len(times) - 1 - start) / (times[-1] - times[start]), most / len(answers)


def added(options: argparse.Namespace) -> None:
    """Time of one request at a time with a retrieved reference, over the same work without a server."""
    from engine.serving.callers import Caller
    from engine.serving.database import ImageDatabase
    from engine.serving.keys import OWN
    from engine.serving.orders import Search
    from engine.store import Workspace

    body = {"prompt": PROMPT, "size": "32x32", "num_inference_steps": options.steps}
    plain = body | {"retriever": "zero", "reference_mode": "img2img", "reference_scale": 0.5}
    caller: Caller = OWN
    over: list[float] = []
    with started() as server:
        add_objects(server, options.objects)
        generator = loaded()
        from engine.models import load_encoder

        database = ImageDatabase(
            Workspace.open(server.workspace), load_encoder("mini-clip", device="cpu", batch_size=1)
        )
        generator.batch_size = 1

        def bare() -> float:
            before = time.perf_counter()
            pixels = database.retrieve(Search(caller, text=PROMPT, k=1))
            recipe = replace(recipe_of(generator.spec, body), **reference_of(generator.spec, *pixels))
            generator.generate([recipe], pixels)
            return 1e3 * (time.perf_counter() - before)

        plan = server.plan([plain], requests=options.requests)
        for number in range(options.pairs + 1):
            alone = statistics.median(bare() for _ in range(options.requests))
            served = median_ms(run(plan))
            again = run(replace(plan, bodies=[body], kinds=("cached",)))
            no_op = median_ms([answer for answer in again if not answer.is_new])
            health = median_ms(run(replace(plan, kinds=("healthz",), requests=4 * options.requests)))
            print(
                f"bare {alone:.1f}, served {served:.1f}, no-op {no_op:.1f}, healthz {health:.1f} ms"
                + ("" if number else "  (not counted)"),
                flush=True,
            )
            if number:
                over.append(served - alone - no_op)
    show("served - bare - no-op", over, "ms (goal: <= 5)")


def add_objects(server: Server, number: int) -> None:
    """Adds pictures through the API, 20 a request."""
    import asyncio

    import aiohttp

    async def send() -> None:
        async with aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {server.key}"}) as session:
            for start in range(0, number, 20):
                form = aiohttp.FormData({"name": f"object {start}"})
                for one in range(start, min(start + 20, number)):
                    picture = bitmap(random.Random(one).randbytes(16 * 16 * 3))
                    form.add_field("image", picture, filename=f"{one}.bmp")
                async with session.post("/v1/images", data=form) as response:
                    assert response.status == 201, await response.text()

    asyncio.run(send())


def overload(options: argparse.Namespace) -> None:
    """Ten times the clients that the server holds (a full queue and a batch) against as many as it holds, and as its queue holds."""
    held = options.queue + BATCH
    ratios: dict[int, list[float]] = {options.queue: [], held: []}
    with started(max_queue=options.queue) as server:
        body = {"prompt": PROMPT, "size": "32x32", "num_inference_steps": 10}
        fits = server.plan([body], clients=held, seconds=options.seconds)
        run(replace(fits, seconds=5.0))
        for _ in range(options.pairs):
            p99 = {}
            for plan in (replace(fits, clients=number) for number in (options.queue, held, 10 * held)):
                answers = run(plan)
                good = [answer.ms for answer in answers if answer.status == 200]
                p99[plan.clients] = percentile(good, 0.99)
                slowest = max(answer.ms for answer in answers)
                print(
                    f"{plan.clients} clients: {statuses(answers)}; accepted p50 {statistics.median(good):.0f}, "
                    f"p99 {p99[plan.clients]:.0f} ms; slowest answer of all {slowest:.0f} ms",
                    flush=True,
                )
            for number, found in ratios.items():
                found.append(p99[10 * held] / p99[number])
    for number, found in ratios.items():
        show(f"p99 of accepted, {10 * held} clients ÷ {number}", found, "(goal: <= 2)")


def soak(options: argparse.Namespace) -> None:
    """A steady mixed load; a line per minute with errors, memory by process, and versions and fragments of the tables."""
    kinds = ["generate"] * 4 + ["cached"] * 3 + ["retrieve"] * 2 + ["add", "stream", "cancel"]
    with started() as server:
        add_objects(server, 200)
        small = [{"prompt": PROMPT, "size": "32x32", "num_inference_steps": steps} for steps in (4, 6)]
        plan = server.plan(small, clients=6, seconds=60.0 * options.minutes + 5, kinds=kinds, pause=0.5, shuffled=True)
        load = Load(plan)
        memory = []
        for minute in range(1, options.minutes + 1):
            time.sleep(60)
            memory.append(processes())
            show_minute(server, minute, load.answers, memory)
        answers = load.wait()
        for kind in sorted(set(kinds)):
            of_kind = [answer for answer in answers if answer.kind == kind]
            print(f"{kind}: {statuses(of_kind)}; p50 {statistics.median(answer.ms for answer in of_kind):.0f} ms")


def show_minute(server: Server, minute: int, answers: Sequence[Answer], memory: Sequence[dict[int, Any]]) -> None:
    """The line of one minute."""
    from engine.store import Workspace

    workspace = Workspace.open(server.workspace)
    bad = [answer for answer in answers if answer.status not in (200, 201, 499)]
    tables = []
    for name in ("images", "requests", "ledger", "runs", "errors"):
        table = workspace.dataset(name)
        tables.append(f"{name} {len(table.versions())}v {len(table.get_fragments())}f")
    changes = []
    for pid, (name, now) in memory[-1].items():
        if pid in memory[0] and "IDLE" not in name:
            changes.append(f"{name.removeprefix('ray::ServeReplica:imagefoundry:')} {memory[0][pid][1]:.0f}->{now:.0f}")
    print(f"minute {minute}: {len(answers)} answers, {len(bad)} errors {statuses(bad)}; {'; '.join(tables)}")
    print(f"    MB: {', '.join(sorted(changes))}", flush=True)


def main() -> None:
    """Runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function: Callable[[argparse.Namespace], None], **defaults: int) -> argparse.ArgumentParser:
        one = commands.add_parser(function.__name__, help=function.__doc__)
        for name, value in defaults.items():
            one.add_argument(f"--{name}", type=int, default=value)
        one.set_defaults(function=function)
        return one

    command(added, pairs=5, requests=30, objects=300, steps=4)
    mixed = command(throughput, pairs=3, clients=32, keys=4, seconds=25)
    mixed.add_argument("--shuffled", action="store_true")
    mixed.add_argument("--mix", choices=MIXES, default="sizes")
    command(overload, pairs=3, queue=16, seconds=15)
    command(soak, minutes=20)
    kills = command(kill, seconds=40, kills=1, retries=0)
    kills.add_argument("--process", choices=("generator", "writer", "ingress"), default="generator")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
