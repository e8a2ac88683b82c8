#!/usr/bin/env python3
"""Rounds of seeded random failures: kills, errors, lost answers and signals; each run must end with exactly its plan.

    python -m benchmarks.chaos --rounds 100 --jobs 2

A round fills a plan of 500 rows, some read and some generated, while workers kill themselves (while they make, or between a
write and its receipt), the driver or Ray's raylet is killed, SIGINT or SIGTERM comes, commits fail or their answers are lost,
recipes kill their process each time and others fail. Whatever ended the driver, the same command is run again. At the end the
table must hold every planned image once, and `errors` every recipe that cannot be made once.
"""

import argparse
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
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
MOST_RUNS = 12
"""Times that a round's command is run; events end far fewer."""


@dataclass(frozen=True)
class Damage:
    """Failures of a round."""

    seed: int
    poison: tuple[int, ...] = ()
    """Recipes that kill their process each time."""
    bad: tuple[int, ...] = ()
    """Recipes that fail."""
    worker_kills: tuple[tuple[str, int], ...] = ()
    """(`make` or `write`, call at which a worker kills itself), each once."""
    driver_events: tuple[tuple[str, int], ...] = ()
    """(`SIGKILL`, `SIGINT`, `SIGTERM` or `raylet`, rows in the table at which it comes), each in a run of its own."""
    commits: tuple[str, ...] = ()
    """Fate of the first commits of each run: `fail`, `lose` (it takes effect but its answer is an error) or `pass`."""

    @classmethod
    def drawn(cls, seed: int) -> "Damage":
        """The failures of a seed."""
        draw = random.Random(seed)
        odd = draw.sample(range(ROWS), 4)
        return cls(
            seed,
            poison=tuple(odd[: draw.choice((0, 0, 1))]),
            bad=tuple(odd[2 : 2 + draw.choice((0, 1, 2))]),
            worker_kills=tuple(
                (draw.choice(("make", "write")), draw.randrange(1, 12)) for _ in range(draw.choice((0, 1, 1, 2)))
            ),
            driver_events=tuple(
                (draw.choice(("SIGKILL", "SIGKILL", "SIGINT", "SIGTERM", "raylet")), draw.randrange(1, ROWS))
                for _ in range(draw.choice((0, 1, 1, 2)))
            ),
            commits=tuple(draw.choice(("fail", "lose", "pass")) for _ in range(draw.choice((0, 2, 4)))),
        )


@dataclass(frozen=True)
class ChaosPlan:
    """Flat pictures, the first third of them read from files."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Recipe:
        source = "original" if index < ROWS // 3 else "generative"
        return Recipe(source=source, dataset="chaos", class_index=0, class_name="colour", prompt="flat", seed=index)


@dataclass
class ChaosMaker:
    """Paints pictures, and kills its process as the damage says."""

    damage: Damage
    folder: str
    """Folder of markers for events that have already happened."""
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
        die_if(self.damage, "make", self.calls, self.folder)
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


def die_if(damage: Damage, stage: str, call: int, folder: str) -> None:
    """Kills this process the way the kernel would, if the damage says so and it has not happened yet."""
    for number, (at, when) in enumerate(damage.worker_kills):
        if at == stage and call >= when:
            try:
                os.close(os.open(f"{folder}/killed-{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)


class ChaosWorker(worker.Worker):
    """Dies between a write and its receipt."""

    _num_writes = 0

    def _write_rows(self, rows: Any) -> worker.Report:
        report = super()._write_rows(rows)
        self._num_writes += 1
        maker: Any = self._job.maker
        die_if(maker.damage, "write", self._num_writes, maker.folder)
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
    """Holds the workspace and the markers."""
    seed: int


def drive(config: DriveConfig) -> None:
    """Fills the plan under the seed's damage."""
    from engine.costs import PriceBook
    from engine.dataflow import pool
    from engine.dataflow.run import Run
    from engine.dataflow.stages import Embed
    from engine.store import Workspace

    damage = Damage.drawn(config.seed)
    pool.Worker = ChaosWorker  # type: ignore[misc]
    workspace = Workspace.open(config.folder / "workspace")
    encoder: Any = ChaosEncoder()
    loader: Any = load_chaos_encoder
    run = Run(
        workspace,
        PriceBook.load(),
        commit_every_seconds=0.5,
        flush_seconds=0.5,
        max_workers=1 + config.seed % 2,
    )
    with run:
        _damage_commits(damage.commits)
        run.fill("chaos", ChaosPlan(), ChaosMaker(damage, str(config.folder)), [Embed.of(encoder, loader)])


def _damage_commits(kinds: Sequence[str]) -> None:
    import lance

    real, left = lance.LanceDataset.commit, iter(kinds)

    def commit(*arguments: Any, **named: Any) -> Any:
        kind = next(left, "pass")
        if kind == "fail":
            raise OSError("503 Slow Down")
        done = real(*arguments, **named)
        if kind == "lose":
            raise OSError("the connection was reset")
        return done

    lance.LanceDataset.commit = staticmethod(commit)


@contextmanager
def shared_ray() -> Iterator[dict[str, str]]:
    """A Ray for all rounds but those that kill a raylet, which spares each run the start of its own; the environment that names it."""
    with tempfile.TemporaryDirectory(prefix="chaos-ray-", dir="/tmp") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
        start = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}"]
        start += ["--num-cpus=16", "--include-dashboard=false", f"--temp-dir={folder}"]
        with (Path(folder) / "log").open("wb") as log:
            head = subprocess.Popen(start, env=_plain_environment() | names, stdout=log, stderr=log)
        try:
            yield names | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.terminate()
            head.wait()


def _plain_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


def play(seed: int, shared: dict[str, str] | None = None) -> dict[str, Any]:
    """Plays a round; returns its result. `shared`: the environment of `shared_ray`."""
    from engine.store import Workspace

    damage = Damage.drawn(seed)
    environment = _plain_environment()
    if shared and all(kind != "raylet" for kind, _ in damage.driver_events):
        environment |= shared
    events = list(damage.driver_events)
    started = time.monotonic()
    codes: list[int] = []
    said = ""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        workspace = Workspace.open(Path(folder) / "workspace")
        while (not codes or codes[-1] != 0) and len(codes) < MOST_RUNS:
            event = events.pop(0) if events else None
            code, said = _run_once(Path(folder), seed, event, workspace, environment)
            codes.append(code)
        plan = ChaosPlan()
        odd = {*damage.poison, *damage.bad}
        ids = workspace.scan(["id"]).read_all()["id"].to_pylist()
        wanted = [plan[index].id for index in range(ROWS) if index not in odd]
        errors = workspace.errors()["seed"].to_pylist()
        problems = []
        if sorted(ids) != sorted(wanted):
            problems.append(
                f"{len(ids)} rows, {len(set(ids))} distinct, {len(set(wanted) - set(ids))} missing, {len(set(ids) - set(wanted))} not wanted"
            )
        if sorted(errors) != sorted(odd):
            problems.append(f"errors {sorted(errors)} instead of {sorted(odd)}")
        if not workspace.verify().sound:
            problems.append("the workspace is damaged")
        if codes[-1] != 0:
            problems.append(f"it never ended: {codes}, {said[-500:]}")
    return {
        "seed": seed,
        "right": not problems,
        "problems": problems,
        "codes": codes,
        "seconds": round(time.monotonic() - started, 1),
        "damage": asdict(damage),
    }


def _run_once(
    folder: Path, seed: int, event: tuple[str, int] | None, workspace: Any, environment: dict[str, str]
) -> tuple[int, str]:
    """Runs the driver, and lets the event come when the table has so many rows; its exit code and what it said."""
    command = [sys.executable, "-m", "benchmarks.chaos", "drive", "--folder", str(folder), "--seed", str(seed)]
    with (folder / "said").open("w+") as said:
        driver = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        deadline = time.monotonic() + 300
        while driver.poll() is None and time.monotonic() < deadline:
            if event and workspace.count() >= event[1]:
                _let_come(event[0], driver.pid)
                event = None
            time.sleep(0.05)
        if driver.poll() is None:
            _let_come("SIGKILL", driver.pid)
            driver.wait()
            return -1, "it hung"
        said.seek(0)
        return driver.returncode, said.read()


def _let_come(kind: str, pid: int) -> None:
    import psutil

    if kind != "raylet":
        os.kill(pid, getattr(signal, kind))
        return
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # a process that has just ended
            if re.search(r"/raylet/raylet\b", " ".join(child.cmdline())):
                child.kill()


def main() -> int:
    """Plays the rounds; returns 0 if all ended as they should."""
    if sys.argv[1:2] == ["drive"]:
        sys.argv.pop(1)
        return run_command(DriveConfig, drive, "One run of a round.")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at once")
    options = parser.parse_args()
    kinds: Counter[str] = Counter()
    right = 0
    seeds = range(options.first, options.first + options.rounds)
    with shared_ray() as shared, ThreadPoolExecutor(options.jobs) as threads:
        for found in threads.map(lambda seed: play(seed, shared), seeds):
            right += found["right"]
            damage = found["damage"]
            kinds.update(kind for kind, _ in (*damage["worker_kills"], *damage["driver_events"]))
            kinds.update(damage["commits"])
            kinds.update({"poison": len(damage["poison"]), "bad": len(damage["bad"])})
            print(json.dumps(found), flush=True)
    print(f"{right} of {options.rounds} rounds ended right; damage: {dict(kinds)}")
    return 0 if right == options.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
