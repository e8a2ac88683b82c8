import pytest
import torch

from engine.models.device import device_name, torch_device


@pytest.mark.parametrize(
    ("variable", "num_gpus", "device"),
    [(None, 1, "cuda"), (None, 0.25, "cuda"), (None, 0, "cpu"), ("", 1, "cuda"), ("cpu", 1, "cpu"), ("cpu", 0, "cpu")],
)
def test_an_actor_computes_where_its_gpu_is(
    variable: str | None, num_gpus: float, device: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("IMAGEFOUNDRY_DEVICE", raising=False)
    if variable is not None:
        monkeypatch.setenv("IMAGEFOUNDRY_DEVICE", variable)
    assert torch_device(num_gpus) == device


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_an_unknown_value_is_one_sentence(num_gpus: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGEFOUNDRY_DEVICE", "tpu")
    with pytest.raises(ValueError, match="IMAGEFOUNDRY_DEVICE is 'tpu'; set it to cpu"):
        torch_device(num_gpus)


def test_a_device_has_a_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H100 ({device})")
    assert device_name("cpu") == "cpu"
    assert device_name("cuda:1") == "NVIDIA H100 (cuda:1)"
