"""The wheel: built without a network, installed into a bare environment, and used from another folder than the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
WATCH = """
import sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).startswith({watched!r}):
        with open({log!r}, "a") as log:
            log.write(str(arguments[0]) + "\\n")

sys.addaudithook(watch)
"""
"""Module of the bare environment that notes each file of the checkout that any of its processes opens, Ray's workers too."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("imagefoundry-*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The `bin` folder of an environment with the wheel and this one's libraries, and the file that names opened files.

    A path in a `.pth` file is searched, but its own `.pth` files are not read, so the editable install is not there.
    """
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    log = folder / "opened.txt"
    (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\nimport watch_checkout\n")
    (site / "watch_checkout.py").write_text(WATCH.format(watched=f"{ROOT / 'engine'}{os.sep}", log=str(log)))
    install = ["install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", str(wheel)]
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    return folder / "bin", log


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")} | more


def test_the_wheel_holds_every_file_of_the_package(wheel: Path):
    listed = subprocess.run(["git", "ls-files", "engine"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = zipfile.ZipFile(wheel).namelist()
    assert set(listed.stdout.split()) <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "jobs/", "benchmarks/")) or "__pycache__" in name]


def test_the_watcher_sees_the_checkout(bare: tuple[Path, Path], tmp_path: Path):
    python, log = bare[0] / "python", bare[1]
    command = [python, "-c", "import engine; print(engine.__file__)"]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(ROOT / "engine" / "__init__.py")
    assert "__init__" in log.read_text()
    log.unlink()
    found = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(bare[0].parent)
    assert not log.exists()


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_stranger_goes_the_whole_path_outside_the_checkout(bare: tuple[Path, Path], tmp_path: Path):
    """docs/whole-path.sh in an empty folder: demo, own data, estimate, generate, audit, export, read elsewhere, serve."""
    binaries, log = bare
    found = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "IMAGEFOUNDRY_MAX_WORKERS": "1"}
    command = ["bash", str(ROOT / "docs" / "whole-path.sh")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(**found), capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "100,000 images of mini" in done.stdout  # the estimate
    assert "Leakage: " in done.stdout
    assert "Counter({'apple': 32, 'leaf': 32, 'pond': 32})" in done.stdout  # what `datasets` read: 16 made, 16 given
    rows = json.loads((tmp_path / "report-own" / "report.json").read_text())["tables"]["tradeoff"]
    assert {(row["source"], row["shots"], row["images"]) for row in rows} == {
        (source, shots, 3 * shots) for source in ("generative", "original") for shots in (1, 4, 16)
    }
    assert "<svg" in (tmp_path / "report-demo" / "index.html").read_text()
    assert Image.open(tmp_path / "apple.png").size == (32, 32)
    for name in (["show", "workspace/own", "--sample", "2"], ["verify", "workspace/own"], ["models"]):
        done = subprocess.run(
            [binaries / "imagefoundry", *name], cwd=tmp_path, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert len([path for path in (tmp_path / "show").iterdir() if path.suffix in (".webp", ".png")]) == 2
    assert not log.exists(), f"files of the checkout were opened:\n{log.read_text()[:2000]}"
