"""The bundle of packages for a machine without a network: what goes in, and that it comes out again."""

import subprocess
from pathlib import Path

import pytest

from deploy.bundle import UNPACK, lacking, write_parts


def test_what_is_present_and_what_comes_with_torch_stays_out():
    pins = ["ray==2.60.0", "typing_extensions==4.16.0", "nvidia-cublas==13", "triton==3.9.0", "torch==2.15.0"]
    assert lacking(pins, []) == pins
    assert lacking(pins, ["Torch", "typing-extensions"]) == ["ray==2.60.0"]


@pytest.mark.parametrize("part_bytes", [100, 10_000_000])
def test_parts_unpack_to_the_same_files_that_may_still_be_run(tmp_path: Path, part_bytes: int):
    site = tmp_path / "site"
    (site / "ray").mkdir(parents=True)
    program = site / "ray" / "raylet"
    program.write_bytes(bytes(range(256)) * 40)
    program.chmod(0o755)
    target = tmp_path / "bundle"
    parts = write_parts(site, target, part_bytes)
    assert all(part.stat().st_size <= part_bytes for part in parts)
    assert len(write_parts(site, target, part_bytes)) == len(parts) == len([*target.glob("part-*")])
    script = target / "unpack.sh"
    assert script.read_text() == UNPACK
    script.write_text("\n".join(line for line in UNPACK.splitlines() if "import ray" not in line))
    subprocess.run(["bash", str(script), str(tmp_path / "there")], check=True)
    found = tmp_path / "there" / "ray" / "raylet"
    assert found.read_bytes() == program.read_bytes()
    assert found.stat().st_mode & 0o111
