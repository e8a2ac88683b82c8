"""Heads trained on a cluster: Ray Data delivers the features, Ray Train runs the workers and replaces lost ones."""

import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from engine.dataflow.resources import choose_ask, current_cluster
from engine.models.device import torch_device
from engine.retriever.data import RetrieverData, as_lists, as_matrix
from engine.retriever.fit import Fit, Trained, TrainingConfig, check_training
from engine.retriever.heads import find_trained, keep_trained, trained_from

if TYPE_CHECKING:
    from engine.dataflow.run import Run

CHECKPOINT_SECONDS = 10.0
"""Seconds between two checkpoints, since writing one takes longer than an epoch of a small head."""
TRAINING_FOLDER = "training"
"""Folder in a workspace for the checkpoints of heads during training."""

MAX_FAILURES = 8
"""Number of times that lost workers are replaced before the run fails."""
ROWS_PER_BLOCK = 65_536
HEADS_PER_JOB = 64
"""Most heads of one Ray Train job, since each checkpoint holds the heads trained so far."""


def train_heads(
    data: RetrieverData,
    configs: Mapping[str, TrainingConfig],
    storage: str | Path,
    *,
    num_workers: int = 1,
    use_gpu: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    negatives: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Trained]:
    """Trains a head for each of `configs`, one after the other in one Ray Train job; Ray must be connected.

    Batches are split between the workers and their images gathered, so the heads equal those of `fit_head` (up to
    rounding) for any number of workers.
    Every few seconds and after the last head, a checkpoint is written below `storage`, a
    folder or URL that all nodes can access. When a worker is lost, all workers restart from it; after the loss of the
    driver, the same call does so too. The result is the same bit for bit.

    Args:
        data: what the heads learn from.
        configs: name of a head → its settings.
        storage: folder or URL for checkpoints.
        num_workers: workers that share each batch.
        use_gpu: whether each worker takes a GPU.
        checkpoint_seconds: seconds between checkpoints.
        negatives: name of a head → its own negatives, `[T, K]` as `RetrieverData.negatives`; the data's for the others.

    Raises:
        ValueError: as `Fit` does.
    """
    import ray.data
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    each = {name: replace(data, negatives=(negatives or {}).get(name, data.negatives)) for name in configs}
    for name, config in configs.items():
        check_training(each[name], config, num_workers)
    folder = str(storage if "://" in str(storage) else Path(storage).absolute())
    name = f"retriever-{_fingerprint(each, configs, num_workers)}"
    if trained := _finished(each, configs, f"{folder.rstrip('/')}/{name}"):
        return trained
    texts, images = data.to_tables()
    columns: dict[int, str] = {}  # heads that learn from the same negatives share their column
    for one in each.values():
        if one.negatives is not data.negatives and id(one.negatives) not in columns:
            columns[id(one.negatives)] = f"negatives {len(columns)}"
            texts = texts.append_column(columns[id(one.negatives)], as_lists(one.negatives))
    device = torch_device(float(use_gpu))
    trainer = TorchTrainer(
        _train_on_worker,
        torch_config=TorchConfig(backend="gloo" if device == "cpu" else None),
        train_loop_config={
            "encoder": data.encoder,
            "configs": {name: asdict(config) for name, config in configs.items()},
            "negatives": {name: columns.get(id(one.negatives), "negatives") for name, one in each.items()},
            "device": device,
            "checkpoint_seconds": checkpoint_seconds,
        },
        datasets={
            name: ray.data.from_arrow(
                [table.slice(start, ROWS_PER_BLOCK) for start in range(0, len(table), ROWS_PER_BLOCK)]
            )
            for name, table in (("texts", texts), ("images", images))
        },
        # any image may be the positive or negative of any text, so the batches are split and not the rows
        dataset_config=DataConfig(datasets_to_split=[]),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    trainer.fit()
    trained = _finished(each, configs, f"{folder.rstrip('/')}/{name}")
    assert trained is not None, "a run that ended without an error has trained all"
    return trained


def _finished(
    data: Mapping[str, RetrieverData], configs: Mapping[str, TrainingConfig], run: str
) -> dict[str, Trained] | None:
    """Results of the run in this folder or URL, from its last checkpoint; None if the run is not finished."""
    from ray.train import Result

    try:
        checkpoint = Result.from_path(run).checkpoint
    except RuntimeError:  # no such run, or one without a checkpoint yet
        return None
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as last:
        if not all((Path(last) / name).is_dir() for name in configs):
            return None
        fits = {name: _restored(data[name], config, Path(last) / name) for name, config in configs.items()}
    return {name: fit.result() for name, fit in fits.items()} if all(fit.done for fit in fits.values()) else None


def _train_on_worker(settings: dict[str, Any]) -> None:
    """The function that each worker runs."""
    import ray.train
    import torch
    from ray.train import Checkpoint
    from ray.train.torch import get_device

    device = get_device() if settings["device"] != "cpu" else torch.device("cpu")
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    parts = {
        name: list(ray.train.get_dataset_shard(name).iter_batches(batch_size=None, batch_format="pyarrow"))
        for name in ("texts", "images")
    }
    shared = RetrieverData.from_tables(settings["encoder"], parts["texts"], parts["images"])
    texts = pa.concat_tables(parts["texts"]).sort_by("row")
    data = {
        column: shared if column == "negatives" else replace(shared, negatives=as_matrix(texts.column(column)))
        for column in set(settings["negatives"].values())
    }
    last_name = list(settings["configs"])[-1]
    resumed = ray.train.get_checkpoint()
    fits = {}
    reported = time.monotonic()
    with tempfile.TemporaryDirectory() as last:
        if resumed:
            resumed.to_directory(last)
        for name, values in settings["configs"].items():
            fits[name] = fit = Fit(
                data[settings["negatives"][name]], TrainingConfig(**values), device, rank, world_size
            )
            if (Path(last) / name).is_dir():
                fit.restore(Path(last) / name)
            while not fit.done:
                row = fit.run_epoch()
                is_last = fit.done and name == last_name
                if not is_last and not _is_due(
                    time.monotonic() - reported, settings["checkpoint_seconds"], world_size, device
                ):
                    continue
                reported = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    if rank == 0:
                        for known, state in fits.items():
                            state.save(Path(folder) / known)
                    # every worker reports and waits for the others; the first one supplies the files
                    checkpoint = Checkpoint.from_directory(folder) if rank == 0 else None
                    ray.train.report({"head": name, **row}, checkpoint=checkpoint)


def _is_due(elapsed: float, seconds: float, world_size: int, device: Any) -> bool:
    """Whether a checkpoint is due by the first worker's clock; the same on every worker."""
    import torch

    due = torch.tensor([float(elapsed >= seconds)])
    if world_size > 1:
        due = due.to(device)
        torch.distributed.broadcast(due, src=0)
    return bool(due.item())


def _restored(data: RetrieverData, config: TrainingConfig, folder: Path) -> Fit:
    fit = Fit(data, config)
    fit.restore(folder)
    return fit


def _fingerprint(data: Mapping[str, RetrieverData], configs: Mapping[str, TrainingConfig], num_workers: int) -> str:
    """Hash of everything that determines the run's result, so the same call continues it and another starts anew."""
    settings = {name: [trained_from(data[name], config), asdict(config)] for name, config in configs.items()}
    return blake2b(json.dumps([num_workers, settings]).encode(), digest_size=8).hexdigest()


Lesson = tuple[RetrieverData, TrainingConfig]
"""Data and settings of one head."""


def train_missing(run: "Run", lessons: Mapping[Any, Lesson], *, num_workers: int = 1) -> dict[Any, Trained]:
    """Trains, through Ray Train, the heads that the workspace does not hold yet, and keeps them there.

    A head is found by the hash of what it is trained from (`engine.retriever.heads.trained_from`), so a second call trains
    nothing. Training uses GPUs if the cluster has some, unless the run is limited to processors.

    Args:
        run: an open run over the workspace.
        lessons: key → data and settings of a head; heads whose data differ in the negatives alone share Ray Train jobs.
        num_workers: workers that share each batch.

    Raises:
        ValueError: as `Fit` does.
    """
    hashes = {key: trained_from(data, config) for key, (data, config) in lessons.items()}
    found = find_trained(run.workspace, list(hashes.values()))
    missing: dict[tuple[int, ...], dict[str, Lesson]] = {}
    for key, (data, config) in lessons.items():
        if hashes[key] not in found:
            missing.setdefault(_shared(data), {}).setdefault(hashes[key], (data, config))
    jobs = [
        dict(list(alike.items())[first : first + HEADS_PER_JOB])
        for alike in missing.values()
        for first in range(0, len(alike), HEADS_PER_JOB)
    ]
    for job in jobs:
        data = next(iter(job.values()))[0]
        configs = {digest: config for digest, (_, config) in job.items()}
        run.connect()
        cluster = current_cluster(may_grow=False)
        ask = choose_ask(cluster, 1.0, device="auto" if cluster.knows_gpus and run.device != "cpu" else "cpu")
        storage = f"{run.workspace.uri}/{TRAINING_FOLDER}"
        run.say(f"training {len(configs)} heads on {num_workers} worker(s), {ask.device}")
        trained = train_heads(
            data,
            configs,
            storage,
            num_workers=num_workers,
            use_gpu=bool(ask.num_gpus),
            negatives={digest: own.negatives for digest, (own, _) in job.items()},
        )
        run.workspace.check_lock()
        keep_trained(run.workspace, trained, run.run_id)
        for digest, one in trained.items():
            seconds = sum(row["seconds"] for row in one.curves)
            run.add_work("train", len(data.text_class), seconds * num_workers, ask)
            found[digest] = one
        _remove(storage)
    return {key: found[digest] for key, digest in hashes.items()}


def _shared(data: RetrieverData) -> tuple[int, ...]:
    """Identity of all arrays but the negatives, which `dataclasses.replace` keeps."""
    arrays = data.text_features, data.text_class, data.image_features, data.image_class, data.validation, data.generated
    return tuple(map(id, arrays))


def _remove(storage: str) -> None:
    """Deletes the checkpoints of runs whose heads are kept."""
    from pyarrow.fs import FileSystem

    system, path = FileSystem.from_uri(storage if "://" in storage else Path(storage).absolute().as_uri())
    with suppress(OSError):  # remaining files only cost disk space
        system.delete_dir(path)
