"""Expected time on processors: near the real count of operations, and a warning only where it matters."""

from dataclasses import replace

import pytest

from engine.models import cpu_time, generator_spec
from engine.models.cpu_time import cpu_warning, duration, flop_per_image


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        # 50 guided steps at 512 pixels: torch's FlopCounterMode on the real UNets (benchmarks/gpu/generate.py), 7.0e13 with the VAE
        ("sd21", 7.0e13),
        ("sdxl", 6.0e14),  # at 1024 pixels
        ("flux", 3.1e15),  # 12e9 parameters, 4,096 patches and 512 tokens, 28 steps, no second pass
    ],
)
def test_the_estimate_is_near_the_real_count(name: str, counted: float):
    spec = generator_spec(name)
    spec = replace(spec, height=512, width=512) if name == "sd21" else spec
    assert 1 / 4 < flop_per_image(spec) / counted < 4


def test_a_large_generator_is_told_with_its_time_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu_time, "flop_per_second", lambda: 5e10)
    spec = replace(generator_spec("sdxl"), num_inference_steps=10, guidance_scale=0.0, parameters=0.5e9)
    seconds = 2 * 0.5e9 * 1024 * 10 / 5e10  # 205
    assert "about 3.4 minutes per image;" in cpu_warning(spec)
    line = cpu_warning(spec, 1000, 2)
    assert f"up to 1,000 images by 2 workers {duration(500 * seconds)};" in line
    assert "estimate" in line
    assert "(50 GFLOP/s per core)" in line
    assert not cpu_warning(generator_spec("mini"), 1_000_000, 1)
    assert "no parameters_billion" in cpu_warning(replace(spec, parameters=0.0))


def test_the_rate_is_measured_on_one_core():
    assert 1e8 < cpu_time.flop_per_second() < 1e13


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5 seconds"),
        (90, "1.5 minutes"),
        (7200, "2 hours"),
        (86_400 * 2.5, "2.5 days"),
        (365 * 86_400 * 4000, "4,000 years"),
    ],
)
def test_a_time_is_told_in_its_largest_unit(seconds: float, text: str):
    assert duration(seconds) == text
