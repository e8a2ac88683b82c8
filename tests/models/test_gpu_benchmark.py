"""The benchmark for GPU machines runs to its end on any machine, on tiny networks, and counts what the real ones compute."""

import sys

import pytest
import torch

from benchmarks.gpu import generate


def test_it_prints_a_line_for_every_speed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["generate.py", "--tiny"])
    generate.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| sd21", "| sdxl"))]
    assert [tuple(line.split(" | ")[0::4][:2]) for line in lines] == [
        (f"| {model}", speed) for model in ("sd21", "sdxl") for speed in ("stock", "exact", "fast")
    ]
    for line in lines:
        images_per_second, gain = (float(value) for value in line.split(" | ")[5:7])
        assert images_per_second > 0
        assert gain > 0


@pytest.mark.parametrize(("model", "parameters"), [("sd21", 865_910_724), ("sdxl", 2_567_463_684)])
def test_its_networks_have_the_real_size(model: str, parameters: int):
    unet = generate.build(model, False, "meta", torch.float32).unet
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


def test_a_guided_image_of_sd21_is_about_seventy_teraflop():
    setting = generate.Setting("sd21", 512, 50, 7.5, 1)
    assert 60 < generate.tflop_per_image("sd21", False, setting) < 85
