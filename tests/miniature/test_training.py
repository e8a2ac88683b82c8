"""The training loop: a stopped run ends with the weights of one that never stopped."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.miniature.training import TrainConfig, Trainer, learning_rate


def _config(folder: Path, **options: object) -> TrainConfig:
    settings = {"steps": 12, "batch_size": 8, "warmup_steps": 3, "bfloat16": False, "threads": 1, "device": "cpu"}
    return TrainConfig(state=str(folder), **(settings | options))


def _trainer(config: TrainConfig) -> Trainer:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    return Trainer("tiny", model, config, say=lambda line: None)


def _loss(trainer: Trainer, stop_at: int | None = None):
    def loss_of_step(rng: torch.Generator) -> torch.Tensor:
        if trainer.step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 6, generator=rng)
        return (trainer.model(x) - x[:, :2]).square().mean()

    return loss_of_step


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = _trainer(_config(tmp_path / "whole"))
    whole.run(_loss(whole))
    stopped = _trainer(_config(tmp_path / "parts", checkpoint_seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        stopped.run(_loss(stopped, stop_at=7))
    resumed = _trainer(_config(tmp_path / "parts"))
    steps: list[int] = []
    step_loss = _loss(resumed)

    def counted(rng: torch.Generator) -> torch.Tensor:
        steps.append(resumed.step)
        return step_loss(rng)

    resumed.run(counted)
    assert steps == list(range(7, 12))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
        assert torch.equal(whole.average[key], resumed.average[key]), key


def test_a_finished_run_does_not_train_again(tmp_path: Path) -> None:
    first = _trainer(_config(tmp_path))
    first.run(_loss(first))
    second = _trainer(_config(tmp_path))
    second.run(_loss(second, stop_at=12))
    assert torch.equal(second.averaged()[0].weight, first.averaged()[0].weight)


def test_training_learns(tmp_path: Path) -> None:
    trainer = _trainer(_config(tmp_path, steps=300, lr=1e-2, average=0.9))
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(9))
    before = (trainer.model(x) - x[:, :2]).square().mean()
    trainer.run(_loss(trainer))
    assert (trainer.averaged()(x) - x[:, :2]).square().mean() < 0.3 * before


def test_a_loss_that_is_not_finite_is_said(tmp_path: Path) -> None:
    trainer = _trainer(_config(tmp_path, log_seconds=0.0))
    with pytest.raises(ValueError, match="loss of tiny is nan at step 1; lower --lr"):
        trainer.run(lambda rng: next(trainer.model.parameters()).sum() * float("nan"))
    assert not trainer.path.exists()


def test_the_learning_rate_rises_then_falls_to_zero(tmp_path: Path) -> None:
    config = _config(tmp_path, steps=100, warmup_steps=10, lr=1.0)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] < 0.2 < 0.9 < max(rates) <= 1
    assert rates[100] == pytest.approx(0, abs=1e-9)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_the_checkpoint_is_safetensors_and_whole(tmp_path: Path) -> None:
    trainer = _trainer(_config(tmp_path))
    trainer.run(_loss(trainer))
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.safetensors"]
    tensors = load_file(tmp_path / "tiny.safetensors")
    assert {key.split("/")[0] for key in tensors} == {"model", "average", "optimizer"}
