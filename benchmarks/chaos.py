#!/usr/bin/env python3
"""Rounds of seeded random failures: kills, stops, full disks, bad storage; each run must end with exactly its plan.

    python -m benchmarks.chaos --rounds 100 --rows 10000 --results chaos.jsonl     # goes on where it was stopped

A round fills a plan, some of it read and some generated, on a disk or on S3 behind a proxy that delays, cuts and lies. Workers kill or
stop themselves (while they make, or between a write and its receipt) or meet a full disk; the driver, Ray's raylet or a node is killed,
the driver is stopped while another takes its workspace over, SIGINT or SIGTERM comes; commits fail, their answers are lost, the committer
dies before or after one; recipes kill their process each time and others fail. Whatever ended the driver, the same command is run again.
At the end the table must hold every planned image once, `errors` every recipe that cannot be made once, the ledger the same
numbers, every image must decode, and a clean-up must leave no file that the tables do not name.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.command import run_command
from engine.dataflow import worker
from engine.images import content_hash, encode_png
from engine.models.preprocessing import Preprocessing
from engine.recipe import Recipe
from engine.sources import Made, Stored

ROWS = 500
FULL_BYTES = 256
"""Bytes that a process may write to a file while its disk is full."""


@dataclass(frozen=True)
class Damage:
    """Failures of a round."""

    seed: int
    rows: int = ROWS
    store: str = "disk"
    """`disk` or `s3`."""
    poison: tuple[int, ...] = ()
    """Recipes that kill their process each time."""
    bad: tuple[int, ...] = ()
    """Recipes that fail."""
    worker_events: tuple[tuple[str, int], ...] = ()
    """(`make` or `write`: a worker kills itself there; `stop`: it stops for a while; `full`: its disk is full; call), each once."""
    driver_events: tuple[tuple[str, int], ...] = ()
    """(Event, rows in the table at which it comes), each in a run of its own. Events are `SIGKILL`, `SIGINT`, `SIGTERM`, `raylet`, `node`
    (one of two is killed), `stop` (for a while), and on S3 `takeover` (the driver is stopped, another one ends the plan, and it wakes up)."""
    commits: tuple[str, ...] = ()
    """Fate of the first commits of each run: `fail`, `lose` (it takes effect but its answer is an error), `full` (its disk is full) or `pass`;
    and, once in a round, `die before` or `die after`."""

    @classmethod
    def drawn(cls, seed: int, rows: int = ROWS) -> "Damage":
        """The failures of a seed."""
        draw = random.Random(seed)
        odd = draw.sample(range(rows), 4)
        store = draw.choice(("disk", "disk", "s3"))
        events = ["SIGKILL", "SIGINT", "SIGTERM", "raylet", "node", "stop"] + ["takeover"] * 2 * (store == "s3")
        fates = ["fail", "lose", "pass", "die before", "die after"] + ["full"] * (store == "disk")
        workers = ("make", "write", "stop", "full") if store == "disk" else ("make", "write", "stop")
        driver_events = [(draw.choice(events), draw.randrange(1, rows)) for _ in range(draw.choice((0, 1, 1, 2)))]
        if [kind for kind, _ in driver_events].count("node") == 2:  # one of the two nodes stays
            driver_events.pop()
        if "takeover" in dict(driver_events):  # the second driver must find something to do, and ends the round
            driver_events = [("takeover", draw.randrange(1, rows // 2))]
        return cls(
            seed,
            rows,
            store,
            poison=tuple(odd[: draw.choice((0, 0, 1))]),
            bad=tuple(odd[2 : 2 + draw.choice((0, 1, 2))]),
            worker_events=tuple(
                (draw.choice(workers), draw.randrange(1, 12)) for _ in range(draw.choice((0, 1, 1, 2)))
            ),
            driver_events=tuple(driver_events),
            commits=tuple(draw.choice(fates) for _ in range(draw.choice((0, 2, 4)))),
        )

    @property
    def kinds(self) -> list[str]:
        """Every failure of the round, for counting."""
        workers = [f"worker {kind}" for kind, _ in self.worker_events]
        commits = [f"commit {kind}" for kind in self.commits if kind != "pass"]
        driver = [kind for kind, _ in self.driver_events]
        return [
            *workers,
            *driver,
            *commits,
            *["poison"] * len(self.poison),
            *["bad"] * len(self.bad),
            f"on {self.store}",
        ]


@dataclass(frozen=True)
class ChaosPlan:
    """Flat pictures, the first third of them read from files."""

    rows: int = ROWS

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Recipe:
        source = "original" if index < self.rows // 3 else "generative"
        return Recipe(source=source, dataset="chaos", class_index=0, class_name="colour", prompt="flat", seed=index)


@dataclass
class ChaosMaker:
    """Paints pictures, and kills its process as the damage says."""

    damage: Damage
    folder: str
    """Folder of markers for events that have already happened."""
    stop_seconds: float = 1.0
    rows_per_call: int = 8
    gpus_per_actor: float = 0.25
    needs_gpu: bool = False
    calls: int = 0

    def reads(self, source: str) -> bool:
        """Whether the picture is read."""
        return source == "original"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def make(self, recipes: Sequence[Recipe]) -> list[Made]:
        """One picture per recipe."""
        made = self.read(recipes)
        for one in made:
            one.pixels = one.views[0] if one.views else None
        return made

    def read(self, recipes: Sequence[Recipe], sizes: Sequence[Preprocessing | None] = (None,)) -> list[Made]:
        """The same."""
        import torch

        self.calls += 1
        time.sleep(0.05)
        befall(self, "make", self.calls)
        befall(self, "stop", self.calls)
        befall(self, "full", self.calls)
        if any(recipe.seed in self.damage.poison for recipe in recipes):
            os.kill(os.getpid(), signal.SIGKILL)
        made = []
        for recipe in recipes:
            if recipe.seed in self.damage.bad:
                made.append(Made(reason="this colour does not exist"))
                continue
            pixels = np.full((16, 16, 3), recipe.seed % 256, np.uint8)
            shown = torch.from_numpy(np.moveaxis(pixels, 2, 0).copy())
            stored = Stored(encode_png(pixels), content_hash(pixels), 16, 16)
            made.append(Made(views=[shown for _ in sizes], stored=stored))
        return made


def befall(maker: ChaosMaker, stage: str, call: int) -> None:
    """Lets an event of the damage come over this process, if it is due and has not come yet."""
    for number, (kind, when) in enumerate(maker.damage.worker_events):
        if kind == stage and call >= when and is_first(maker.folder, f"worker-{number}"):
            if kind == "stop":
                wake = f"sleep {maker.stop_seconds}; kill -CONT {os.getpid()}"
                subprocess.Popen(["sh", "-c", wake], start_new_session=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            elif kind == "full":
                fill_disk()
            else:
                os.kill(os.getpid(), signal.SIGKILL)


def is_first(folder: str | Path, name: str) -> bool:
    """Whether nobody has asked this before in the round."""
    try:
        os.close(os.open(f"{folder}/did-{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def fill_disk(num_bytes: int = FULL_BYTES) -> None:
    """From now on this process can write only so many bytes to a file; the rest fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


class ChaosWorker(worker.Worker):
    """Dies between a write and its receipt."""

    _num_writes = 0

    def _write_rows(self, rows: Any) -> worker.Report:
        report = super()._write_rows(rows)
        self._num_writes += 1
        maker: Any = self._job.maker
        befall(maker, "write", self._num_writes)
        return report


@dataclass
class ChaosEncoder:
    """Embeds a picture as its mean colour."""

    source: str = "chaos"
    name: str = "chaos"
    dimension: int = 4
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing((16, 16), "shortest", "bicubic"))

    def encode_images(self, images: Any) -> Any:
        """`[N, 4]` float32, unit norm."""
        import torch

        means = torch.stack([image.float().mean((1, 2)) for image in images])
        return torch.nn.functional.normalize(torch.cat([means, torch.ones(len(means), 1)], 1), dim=-1)


def load_chaos_encoder(source: str, *, device: str = "cpu") -> ChaosEncoder:
    """As `engine.models.load_encoder`."""
    return ChaosEncoder()


@dataclass(frozen=True)
class DriveConfig:
    """One run of a round."""

    folder: Path
    """Holds the markers, and the workspace on a disk."""
    workspace: str
    seed: int
    rows: int = ROWS
    stop_seconds: float = 1.0


def drive(config: DriveConfig) -> None:
    """Fills the plan under the seed's damage."""
    from engine.costs import PriceBook
    from engine.dataflow import pool
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.store import Workspace, lock, object_lock

    damage = Damage.drawn(config.seed, config.rows)
    pool.Worker = ChaosWorker
    lock.BEAT_SECONDS, object_lock.WATCH_SECONDS = 1.0, 3.0  # the store's clock makes every lock look dead
    workspace = Workspace.open(config.workspace)
    encoder: Any = ChaosEncoder()
    loader: Any = load_chaos_encoder
    has_nodes = "node" in dict(damage.driver_events)
    maker = ChaosMaker(damage, str(config.folder), config.stop_seconds, rows_per_call=max(8, config.rows // 100))
    if has_nodes:
        maker.gpus_per_actor, maker.needs_gpu = 1.0, True
    run = Run(
        workspace,
        PriceBook.load(),
        commit_every_seconds=0.5,
        flush_seconds=0.5,
        max_workers=2 if has_nodes else 1 + config.seed % 2,
        device="auto" if has_nodes else "cpu",
    )
    with run:
        _damage_commits(damage.commits, config.folder)
        run.fill("chaos", ChaosPlan(config.rows), maker, [Embed.of(encoder, loader)])


def _damage_commits(kinds: Sequence[str], folder: Path) -> None:
    import lance

    real, left = lance.LanceDataset.commit, iter(kinds)

    def commit(*arguments: Any, **named: Any) -> Any:
        kind = next(left, "pass")
        if kind == "fail":
            raise OSError("503 Slow Down")
        if kind == "die before" and is_first(folder, kind):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "full":
            fill_disk()
        try:
            done = real(*arguments, **named)
        finally:
            if kind == "full":
                fill_disk(resource.RLIM_INFINITY)
        if kind == "die after" and is_first(folder, kind):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "lose":
            raise OSError("the connection was reset")
        return done

    lance.LanceDataset.commit = staticmethod(commit)


def main() -> int:
    """Plays the rounds; returns 0 if all ended as they should."""
    if sys.argv[1:2] == ["drive"]:
        sys.argv.pop(1)
        return run_command(DriveConfig, drive, "One run of a round.")
    from benchmarks.chaos_rounds import Arena, play

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--jobs", type=int, default=1, help="rounds at once")
    parser.add_argument("--stop-seconds", type=float, default=60.0, help="how long a process is stopped")
    parser.add_argument(
        "--results", type=Path, help="file for a line of JSON per round; rounds that are in it are not played again"
    )
    options = parser.parse_args()
    results = (
        [json.loads(line) for line in options.results.read_text().splitlines()]
        if options.results and options.results.exists()
        else []
    )
    known = {one["seed"] for one in results}
    seeds = [seed for seed in range(options.first, options.first + options.rounds) if seed not in known]
    with Arena() as arena, ThreadPoolExecutor(options.jobs) as threads:
        for found in threads.map(
            lambda seed: play(arena, Damage.drawn(seed, options.rows), options.stop_seconds), seeds
        ):
            results.append(found)
            print(json.dumps(found), flush=True)
            if options.results:
                with options.results.open("a") as lines:
                    lines.write(json.dumps(found) + "\n")
        print(f"faults of the S3 proxy: {dict(arena.proxy.faults)}")
    kinds = Counter(kind for one in results for kind in one["kinds"])
    right = sum(one["right"] for one in results)
    print(f"{right} of {len(results)} rounds ended right; damage: {dict(kinds)}")
    return 0 if right == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
