"""Training on a cluster: the heads of one process, whoever dies."""

import os
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.retriever.fit import TrainingConfig, fit_head
from engine.retriever.ray_training import train_heads
from tests.retriever.test_fit import make_data


def training_workers() -> list[int]:
    """Processes below this one that train."""
    parents, found = {}, []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            number = int(status.parent.name)
            parents[number] = int(status.read_text().rsplit(")", 1)[1].split()[1])
            if b"TrainWorker" in (status.parent / "cmdline").read_bytes():
                found.append(number)
        except OSError:
            continue

    def mine(number: int) -> bool:
        return number == os.getpid() or (number > 1 and mine(parents.get(number, 0)))

    return [number for number in found if mine(number)]


def kill_a_worker_once(storage: Path, killed: list[int], stop: threading.Event) -> None:
    """Kills one as soon as an epoch is on disk; looks until then, or until all have ended."""
    while not killed and not stop.wait(0.02):
        if list(storage.rglob("fit.json")) and (workers := training_workers()):
            with suppress(ProcessLookupError):  # it may have ended by itself just now
                os.kill(workers[-1], signal.SIGKILL)
                killed.append(workers[-1])


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_two_workers_of_which_one_is_killed_train_the_heads_of_one_process(tmp_path: Path):
    data = make_data(classes=40, texts=60, images=20, dimension=32)
    config = TrainingConfig(epochs=4, batch_size=16, hidden=32, num_negatives=2, keep_epochs=(2,))
    configs = {"realrag": config, "normal": replace(config, label="normal", num_negatives=0, epochs=1)}
    configs["other"] = replace(config, label="other", epochs=1, keep_epochs=())
    others = {"other": np.roll(data.negatives, 1, axis=0)}
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_a_worker_once, args=(tmp_path, killed, stop))
    killer.start()
    try:
        trained = train_heads(data, configs, tmp_path, num_workers=2, checkpoint_seconds=0.0, negatives=others)
    finally:
        stop.set()
        killer.join()
    assert killed
    assert not Path(f"/proc/{killed[0]}").exists()
    for name, one in configs.items():
        alone = fit_head(replace(data, negatives=others.get(name, data.negatives)), one)
        assert trained[name].head.spec == alone.head.spec
        assert len(trained[name].curves) == one.epochs
        for ours, theirs in zip(trained[name].head.parameters(), alone.head.parameters(), strict=True):
            np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=2e-4)
        assert [row["loss"] for row in trained[name].curves] == pytest.approx(
            [row["loss"] for row in alone.curves], rel=1e-4
        )
    assert trained["realrag"].checkpoints[2].spec.epoch == 2

    again = train_heads(data, configs, tmp_path, num_workers=2, negatives=others)  # nothing is left to train
    assert {name: one.head.name for name, one in again.items()} == {
        name: one.head.name for name, one in trained.items()
    }
