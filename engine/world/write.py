"""Write the whole world to a folder: complete or not at all."""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.world.classes import DATASETS, class_names, dataset_classes, templates
from engine.world.pool import SHARD_SIZE, draw_shard, plan_shard
from engine.world.render import render
from engine.world.shards import split_evenly, write_shard

VERSION = 2
"""Raised whenever the same settings would give other images."""
WEB = "mini-web"
"""Name of the captioned pool."""
WORLD = (*DATASETS, WEB)
"""Data sets that are rendered by default."""
_LEAST_SHOTS = 20  # in a shard: rendering many classes a few images at a time is slow


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Size of the world. Equal settings give equal bytes."""

    shots: int = 500
    """Training images per class."""
    test_images: int = 100
    """Test images per class."""
    pool_images: int = 60_000
    """Images in the captioned web pool."""
    size: int = 32
    """Edge of the images, pixels."""
    seed: int = 0
    """The world's seed."""

    def __post_init__(self) -> None:
        """Raises ValueError for a size below 1."""
        for name in ("shots", "test_images", "pool_images", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but a world needs at least 1.")


@dataclass(frozen=True)
class _Task:
    dataset: str
    split: str
    number: int
    samples: range


def _tasks(config: WorldConfig, datasets: Sequence[str]) -> list[_Task]:
    tasks = []
    for dataset in datasets:
        if dataset == WEB:
            ranges = split_evenly(config.pool_images, SHARD_SIZE)
            tasks += [_Task(WEB, "train", i, r) for i, r in enumerate(ranges)]
            continue
        num = len(dataset_classes(dataset))
        for split, shots in (("train", config.shots), ("test", config.test_images)):
            # a shard holds whole shots, so that every class is in each
            ranges = split_evenly(shots, max(_LEAST_SHOTS, SHARD_SIZE // num))
            tasks += [_Task(dataset, split, i, range(r.start * num, r.stop * num)) for i, r in enumerate(ranges)]
    return tasks


def _write_task(folder: Path, config: WorldConfig, task: _Task) -> int:
    path = folder / task.dataset / task.split / f"{task.number}.tar"
    if task.dataset == WEB:
        plan = plan_shard(config.seed, task.samples)
        images = draw_shard(config.seed, plan, task.samples, config.size)
        write_shard(path, task.samples.start, images, "txt", (image.caption for image in plan))
        return len(images)
    classes = dataset_classes(task.dataset)
    shots = np.arange(task.samples.start // len(classes), task.samples.stop // len(classes))
    # shot-major: the first images of every class come first, so a reader of n shots stops early
    images = np.stack([render(item, task.split, shots, config.seed, config.size) for item in classes], axis=1)
    labels = (str(sample % len(classes)) for sample in task.samples)
    write_shard(path, task.samples.start, images.reshape(-1, *images.shape[2:]), "cls", labels)
    return len(task.samples)


def _write_lists(folder: Path, tasks: list[_Task]) -> None:
    for dataset in {task.dataset for task in tasks} - {WEB}:
        (folder / dataset / "classnames.txt").write_text("\n".join(class_names(dataset)) + "\n")
        (folder / dataset / "zeroshot_classification_templates.txt").write_text("\n".join(templates(dataset)) + "\n")
    for dataset, split in {(task.dataset, task.split) for task in tasks}:
        num = sum((task.dataset, task.split) == (dataset, split) for task in tasks)
        (folder / dataset / split / "nshards.txt").write_text(f"{num}\n")


def _already_written(folder: Path, config: WorldConfig, datasets: Sequence[str]) -> bool:
    mark = folder / "world.json"
    if not mark.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} holds files that are not a world; name an empty or a new folder.")
        return False
    found = json.loads(mark.read_text())
    wanted = {"version": VERSION, **asdict(config)}
    differing = [key for key, value in wanted.items() if found.get(key) != value]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{folder} holds a world with {key} {found.get(key)}, not {wanted[key]}; name another folder or remove it."
        )
    lacking = [name for name in datasets if not (folder / name).is_dir()]
    if lacking:
        raise ValueError(f"{folder} holds a world without {lacking[0]}; name another folder or remove it.")
    return True


def write_world(
    folder: Path,
    config: WorldConfig,
    num_processes: int = 0,
    say: Callable[[str], None] = lambda line: None,
    datasets: Sequence[str] = WORLD,
) -> bool:
    """Write the world to `folder`, in one move when complete.

    Args:
        folder: new or empty folder, or one that holds this world (then nothing is done).
        config: size of the world.
        num_processes: processes that render; 0 means one per core.
        say: called with a line of progress.
        datasets: data sets to render, of `WORLD`, `mini-many` and `mini-pairs`.

    Returns:
        Whether anything was written.

    Raises:
        ValueError: the folder holds another world or other files, or a data set is unknown.
    """
    folder = folder.resolve()
    if _already_written(folder, config, datasets):
        return False
    tasks = _tasks(config, datasets)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    started, done = time.monotonic(), 0
    total = sum(len(task.samples) for task in tasks)
    counts: dict[str, int] = dict.fromkeys((f"{task.dataset}/{task.split}" for task in tasks), 0)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_processes or os.cpu_count() or 1, mp_context=context) as pool:
            # the largest first, so that no core waits for the last shard
            order = sorted(tasks, key=lambda task: -len(task.samples))
            futures = {pool.submit(_write_task, partial, config, task): task for task in order}
            for future in as_completed(futures):
                counts[f"{futures[future].dataset}/{futures[future].split}"] += future.result()
                done += len(futures[future].samples)
                rate = done / (time.monotonic() - started)
                say(f"{done:,} of {total:,} images, {rate:,.0f} images/s, {(total - done) / rate:.0f} s to go")
        _write_lists(partial, tasks)
        mark = {"version": VERSION, **asdict(config), "images": counts}
        (partial / "world.json").write_text(json.dumps(mark, indent=2) + "\n")
        try:
            partial.rename(folder)
        except OSError:
            # another process may have been quicker; its world is the same
            if not _already_written(folder, config, datasets):
                raise
            return False
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True
