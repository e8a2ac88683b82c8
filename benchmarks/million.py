#!/usr/bin/env python3
"""A million images: all classes of GenBench's 22 data sets x 500 shots, killed on the way, and what that took.

    python -m benchmarks.million play --folder /some/disk         # the run, its kills and its measurements: an hour or more
    python -m benchmarks.million grow --folder /some/disk --shots 520   # without kills: into an empty table, or on
    python -m benchmarks.million resume --folder /some/disk       # what a start on that table costs
    python -m benchmarks.million care --folder /some/disk         # verify; damage a file, verify, repair, resume, verify
    python -m benchmarks.million first-row                        # first row of a run of ten million recipes

The generator is a random Stable Diffusion of the real class for 16 x 16 images, one step; the encoder a random open_clip ViT: real library
code at the lowest price, so that the engine around it is what is measured. docs/scale.md has the results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import TreeClock, machine
from benchmarks.plan_speed import datasets
from engine.sources import GenerativePlan, GeneratorMaker
from engine.sources.plan import ConcatenatedPlan

SHOTS = 500
EVENTS = (
    ("worker", 60_000),
    ("SIGKILL", 200_000),
    ("raylet", 400_000),
    ("worker", 500_000),
    ("SIGTERM", 700_000),
    ("SIGKILL", 850_000),
    ("raylet", 1_150_000),
)
"""(What is killed, rows in the table at which it is). `worker` is no end of the run: the pool replaces it."""
SAMPLE_SECONDS = 5.0
MARKS = (10_000, 100_000, 1_000_000)
"""Rows until which the memory is read."""


def big_plan(spec: Any, shots: int = SHOTS) -> ConcatenatedPlan:
    """One plan per data set, one after the other: 2,548 recipes per shot."""
    sets = [  # the random generator reads letters, 32 of them
        replace(dataset, class_names=tuple(f"class {number}" for number in range(len(dataset.class_names))))
        for dataset in datasets()
    ]
    return ConcatenatedPlan([GenerativePlan(dataset, spec, "class_name", shots) for dataset in sets])


def cheap_models(folder: Path) -> tuple[Any, str]:
    """The generator's spec and the encoder's folder, written at the first call."""
    from engine.models import generator_spec
    from engine.testing.models import save_encoder, save_pipeline

    pipeline, encoder = folder / "generator", folder / "encoder"
    if not pipeline.exists():
        save_pipeline(pipeline)
        save_encoder(encoder)
    spec = replace(generator_spec("mini"), name="cheap", source=str(pipeline), num_inference_steps=1)
    return replace(spec, height=16, width=16, reference_modes={}, auxiliaries={}), str(encoder)


def fill(folder: Path, shots: int) -> None:
    """One driver: makes what the table lacks; notes what compaction wrote."""
    from engine.costs import PriceBook
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.models import load_encoder
    from engine.store import Workspace

    spec, encoder = cheap_models(folder)
    workspace = Workspace.open(folder / "workspace")
    compact = workspace.compact

    def noted(**options: Any) -> int:
        started, written = time.monotonic(), compact(**options)
        note(folder, "compactions", bytes=written, seconds=time.monotonic() - started, rows=workspace.count())
        return written

    workspace.compact = noted
    maker = GeneratorMaker(spec, 64, 0.25)
    with Run(workspace, PriceBook.load()) as run:
        run.fill("million", big_plan(spec, shots), maker, [Embed.of(load_encoder(encoder))])


def note(folder: Path, name: str, **values: Any) -> None:
    """Appends a line of JSON."""
    with (folder / f"{name}.jsonl").open("a") as lines:
        lines.write(json.dumps(values) + "\n")


@dataclass
class Watch:
    """Samples rows, processor seconds and memory while a driver runs."""

    folder: Path
    clock: TreeClock

    def sample(self, workspace: Any, driver: int) -> int:
        """Notes one sample; returns the number of rows."""
        import psutil

        rows = int(workspace.count())
        memory: dict[str, float] = {}
        with suppress(psutil.Error):
            root = psutil.Process(driver)
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.Error):
                    kind = "driver" if process == root else kind_of(process)
                    used = process.memory_info()
                    memory[kind] = max(memory.get(kind, 0.0), (used.rss - used.shared) / 2**20)
                    if kind == "raylet":
                        memory["object store"] = used.shared / 2**20
        now = time.monotonic()
        cpu = self.clock.at(now) if self.clock.samples else 0.0
        note(self.folder, "samples", seconds=now, rows=rows, cpu=cpu, driver=driver, mib=memory)
        return rows


def kind_of(process: Any) -> str:
    """Part of Ray that a process is."""
    name = " ".join(process.cmdline()[:1])
    return "worker" if "Worker" in name else "raylet" if name.endswith("raylet/raylet") else "other"


def play(folder: Path, shots: int, events: Sequence[tuple[str, int]]) -> int:
    """Runs the driver until it ends well, with the events; prints the report and returns the exit code."""
    from engine.store import Workspace

    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.open(folder / "workspace")
    left, codes = list(events), list[int]()
    begun = time.monotonic()
    with TreeClock() as clock:
        watch = Watch(folder, clock)
        while not codes or codes[-1]:
            command = [
                sys.executable,
                "-m",
                "benchmarks.million",
                "fill",
                "--folder",
                str(folder),
                "--shots",
                str(shots),
            ]
            with (folder / f"said-{len(codes)}.txt").open("w") as said:
                driver = subprocess.Popen(command, stdout=said, stderr=said)
                while driver.poll() is None:
                    rows = watch.sample(workspace, driver.pid)
                    if left and rows >= left[0][1]:
                        kind, _ = left.pop(0)
                        strike(kind, driver.pid)
                        note(folder, "events", kind=kind, rows=rows, seconds=time.monotonic())
                    time.sleep(SAMPLE_SECONDS)
            codes.append(driver.returncode)
            if len(codes) > len(events) + 3:
                break
    report(folder, workspace, codes, time.monotonic() - begun, shots)
    return codes[-1]


def strike(kind: str, driver: int) -> None:
    """Kills a part of the run."""
    import psutil

    if kind.startswith("SIG"):
        os.kill(driver, getattr(signal, kind))
        return
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if kind_of(process) == kind:
                process.kill()
                return


def report(folder: Path, workspace: Any, codes: list[int], seconds: float, shots: int) -> None:
    """Prints what the run left, from the table and the notes."""
    print(f"{machine()}; exit codes {codes}; {seconds / 60:.0f} min")
    samples, compactions = lines_of(folder, "samples"), lines_of(folder, "compactions")
    by_driver(samples)
    for kind in ("driver", "worker", "raylet", "object store"):
        peaks = [
            max((one["mib"].get(kind, 0.0) for one in samples if one["rows"] <= mark), default=0) for mark in MARKS
        ]
        print(
            f"{kind:13} MiB at most until {', '.join(f'{mark:,}' for mark in MARKS)} rows: {[round(p) for p in peaks]}"
        )
    made = sum(file.stat().st_size for file in (folder / "workspace" / "images.lance" / "data").iterdir())
    rewritten = sum(one["bytes"] for one in compactions)
    dataset = workspace.dataset("images")
    print(
        f"{dataset.count_rows():,} rows, version {dataset.version}, {len(dataset.versions())} versions kept, "
        f"{len(dataset.get_fragments())} fragments, {made / 1e6:,.0f} MB; compaction wrote {rewritten / 1e6:,.0f} MB "
        f"({rewritten / made:.2f} times)"
    )
    spec, _ = cheap_models(folder)
    plan = big_plan(spec, shots)
    ids = workspace.done_ids()
    found_ids = workspace.scan(["id"]).read_all().num_rows
    wanted = np.array([ids.contains([plan[index].id for index in part]).all() for part in parts(len(plan))])
    print(
        f"{found_ids:,} rows, {len(ids):,} distinct ids, {len(plan):,} planned; every planned id there: {wanted.all()}"
    )
    print(f"errors: {workspace.errors().num_rows}")


def parts(num: int, size: int = 10_000) -> Iterator[range]:
    """Ranges that make up `range(num)`."""
    return (range(start, min(num, start + size)) for start in range(0, num, size))


def lines_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The notes of a name."""
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_driver(samples: list[dict[str, Any]]) -> None:
    """Prints what each driver did from its first new row on: rows per second, processor seconds per row, its memory."""
    for number in dict.fromkeys(one["driver"] for one in samples):
        own = [one for one in samples if one["driver"] == number]
        working = [one for one in own if one["rows"] > own[0]["rows"]]
        if len(working) < 2 or working[-1]["rows"] == working[0]["rows"]:
            continue
        first, last = working[0], working[-1]
        rows = last["rows"] - first["rows"]
        print(
            f"from {own[0]['rows']:>9,} to {last['rows']:>9,} rows: first new row seen after {first['seconds'] - own[0]['seconds']:4.0f} s, then "
            f"{rows / (last['seconds'] - first['seconds']):6.0f} rows/s, {(last['cpu'] - first['cpu']) / rows * 1e3:.2f} ms of processor per "
            f"row; driver at most {max(one['mib'].get('driver', 0.0) for one in own):.0f} MiB"
        )


def resume(folder: Path, shots: int) -> None:
    """Seconds and memory until a new run knows its first missing recipes, and until it knows all."""
    import psutil

    from engine.dataflow.leases import Backlog
    from engine.store import Workspace

    process = psutil.Process()
    spec, _ = cheap_models(folder)
    plan = big_plan(spec, shots + 1)  # one more shot than the table holds
    workspace = Workspace.open(folder / "workspace", create=False)
    workspace.count()
    before, started = process.memory_info().rss, time.perf_counter()
    done = workspace.done_ids()
    print(f"{len(done):,} ids read after {time.perf_counter() - started:.2f} s")
    backlog = Backlog(plan, done, lambda source: False)
    assert backlog.take(lambda reads: 64) is not None
    first = time.perf_counter() - started
    print(f"first missing recipes after {first:.2f} s, {(process.memory_info().rss - before) / 2**20:.0f} MiB more")
    while backlog.take(lambda reads: 512):
        pass
    seconds = time.perf_counter() - started
    print(f"all {len(plan):,} recipes compared after {seconds:.1f} s, {int(backlog.is_pending.sum()):,} missing")
    print(f"{(process.memory_info().rss - before) / 2**20:.0f} MiB more than before")
    backlog.close()


def care(folder: Path, shots: int) -> int:
    """Damages a file of a sound table, then verifies, repairs, resumes and verifies again; returns 0 if each step finds what it should."""
    from engine.store import Workspace

    place = folder / "workspace"
    workspace = Workspace.open(place, create=False)
    rows = workspace.count()
    first = verified(place)
    fragment = workspace.dataset("images").get_fragments()[0]
    file = place / "images.lance" / "data" / fragment.metadata.files[0].path
    os.truncate(file, file.stat().st_size // 2)
    print(f"{file.name}, with {fragment.count_rows():,} rows, was cut in half", flush=True)
    damaged = verified(place)
    verified(place, "--repair")
    left = Workspace.open(place, create=False).count()
    print(f"{left:,} rows after the repair", flush=True)
    command = [sys.executable, "-m", "benchmarks.million", "fill", "--folder", str(folder), "--shots", str(shots)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    last = verified(place)
    again = Workspace.open(place, create=False).count()
    print(f"{again:,} rows after the next run")
    are_equal = made_again(folder)
    return 0 if are_equal and (first, last, again) == ("", "", rows) and file.name in damaged and left < rows else 1


def made_again(folder: Path, num: int = 64) -> bool:
    """Makes some random images again and says whether all are equal bit for bit, as `imagefoundry regenerate --sample` does."""
    from unittest.mock import patch

    from engine.cli.regenerate import RegenerateConfig, regenerate

    spec, _ = cheap_models(folder)
    # the generator has no name in the registry
    with patch("engine.models.generator_spec", lambda *names, **options: spec):
        found = regenerate(RegenerateConfig(str(folder / "workspace"), sample=num))
    print(f"{found.num_equal} of {len(found.images)} random images made again are equal bit for bit")
    return found.num_equal == len(found.images)


def verified(place: Path, *options: str) -> str:
    """Verifies a workspace by its command, prints what that took, and returns what it has found."""
    code = f"from engine.cli.main import main; import sys; sys.exit(main(['verify', {str(place)!r}, *{options!r}]))"
    started, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    used = os.times()
    spent = used.children_user + used.children_system - before.children_user - before.children_system
    print(
        f"verify {' '.join(options)}: {time.perf_counter() - started:.1f} s, {spent:.1f} processor seconds, exit code {done.returncode}"
    )
    print("  " + "\n  ".join(done.stdout.strip().splitlines()[:4]), flush=True)
    return done.stdout if done.returncode else ""


def first_row(recipes: int) -> None:
    """Seconds from the start of a driver with that many recipes until the table has a row."""
    from engine.store import Workspace

    per_shot = sum(len(dataset.class_names) for dataset in datasets())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cheap_models(folder)
        workspace = Workspace.open(folder / "workspace")
        command = [sys.executable, "-m", "benchmarks.million", "fill", "--folder", name]
        started = time.perf_counter()
        driver = subprocess.Popen([*command, "--shots", str(-(-recipes // per_shot))], stderr=subprocess.DEVNULL)
        while not workspace.count():
            if driver.poll() is not None:
                raise SystemExit(f"the driver ended with {driver.returncode} before it had a row")
            time.sleep(0.1)
        print(f"{machine()}; first row of {recipes:,} recipes after {time.perf_counter() - started:.1f} s")
        driver.send_signal(signal.SIGINT)
        driver.wait()


def main() -> int:
    """Runs one part; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("play", "grow", "fill", "resume", "care", "first-row", "report"))
    parser.add_argument("--folder", type=Path, help="holds the workspace, the models and the notes")
    parser.add_argument("--shots", type=int, default=SHOTS, help="images per class")
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if options.part in ("play", "grow", "fill", "resume", "care", "report") and not options.folder:
        parser.error("give --folder, a place with a few gigabytes")
    if options.part == "play":
        share = options.shots / SHOTS
        return play(options.folder, options.shots, [(kind, int(rows * share)) for kind, rows in EVENTS])
    if options.part == "grow":
        return play(options.folder, options.shots, [])
    if options.part == "fill":
        fill(options.folder, options.shots)
    elif options.part == "resume":
        resume(options.folder, options.shots)
    elif options.part == "care":
        return care(options.folder, options.shots)
    elif options.part == "first-row":
        first_row(options.rows)
    elif options.part == "report":
        from engine.store import Workspace

        report(options.folder, Workspace.open(options.folder / "workspace", create=False), [], 0.0, options.shots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
