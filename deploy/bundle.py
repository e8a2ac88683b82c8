#!/usr/bin/env python3
"""Packs the Python packages that a machine without a network lacks, in parts that are small enough to carry.

    python deploy/bundle.py bundle --python 3.12 --present present.txt --part-mb 40
    # there, with all parts in one folder (they may come one after another):
    bash bundle/unpack.sh /tmp/site && export PYTHONPATH=/tmp/site:$PWD

The packages are those of pyproject.toml in the versions of requirements.lock, for x86-64 Linux. `--present` names a file with the packages
that are there already, a name per line (the names in `pip list` there); those whose name begins with one of `nvidia-`, `cuda-` or `triton` come
with torch. Leave out of the file what is there but too old for the lock's other packages: Ray Serve's gRPC packages need their own
`grpcio`. Needs uv (`make install` brings it) and xz here, and bash, xz and tar there.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORM = "x86_64-manylinux_2_28"
WITH_TORCH = ("nvidia-", "cuda-", "triton")
UNUSED = ("ray/jars", "pyarrow/include", "pyarrow/tests")
"""Below the site folder: what no program here reads."""
UNPACK = """#!/bin/bash
# Unpacks the parts beside this file into a folder for PYTHONPATH.
set -euo pipefail
mkdir -p "$1"
cat "$(dirname "$0")"/part-* | xz -T0 -dc | tar -x -C "$1"
PYTHONPATH=$1 python3 -c "import ray, lancedb, diffusers, open_clip, torch; print('ray', ray.__version__, 'torch', torch.__version__, 'cuda', torch.cuda.is_available())"
"""


def normal(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lacking(pins: Iterable[str], present: Collection[str]) -> list[str]:
    """Pins `name==version` of the packages that are not present and do not come with torch where torch is."""
    there = {normal(name) for name in present}
    come = WITH_TORCH if "torch" in there else ()
    return [pin for pin in pins if (name := normal(pin.partition("==")[0])) not in there and not name.startswith(come)]


def pinned(uv: str, python: str) -> list[str]:
    """`name==version` of everything that the engine needs at run time."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line.rstrip(" \\") for line in lines if re.match(r"[\w.-]+==", line)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as locked:
        locked.write("\n".join(pins))
        locked.flush()
        command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", python]
        command += ["--python-platform", PLATFORM, "--constraints", locked.name, str(ROOT / "pyproject.toml")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def write_parts(site: Path, target: Path, part_bytes: int) -> list[Path]:
    """Packs a folder into parts of at most `part_bytes` bytes, with `unpack.sh` beside them."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("part-*"):
        old.unlink()
    with (
        subprocess.Popen(["tar", "-C", str(site), "-c", "."], stdout=subprocess.PIPE) as packed,
        subprocess.Popen(["xz", "-3", "-T0"], stdin=packed.stdout, stdout=subprocess.PIPE) as pressed,
    ):
        assert packed.stdout is not None
        assert pressed.stdout is not None
        packed.stdout.close()
        parts = []
        while data := pressed.stdout.read(part_bytes):
            parts.append(target / f"part-{len(parts):02}")
            parts[-1].write_bytes(data)
    if packed.returncode or pressed.returncode:
        raise SystemExit("tar or xz failed; its message is above")
    (target / "unpack.sh").write_text(UNPACK)
    return parts


def main(arguments: list[str] | None = None) -> None:
    """Writes the parts, and prints their number and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="folder for the parts")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="Python there")
    parser.add_argument("--present", type=Path, help="file with the names of the packages that are there")
    parser.add_argument("--part-mb", type=float, default=40.0)
    options = parser.parse_args(arguments)
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    present = options.present.read_text("utf-8").split() if options.present else []
    pins = lacking(pinned(uv, options.python), present)
    with tempfile.TemporaryDirectory() as folder:
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder]
        command += ["--python-version", options.python, "--python-platform", PLATFORM, *pins]
        subprocess.run(command, check=True)
        for name in UNUSED:
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
        parts = write_parts(Path(folder), options.target, int(options.part_mb * 1e6))
    size = sum(part.stat().st_size for part in parts) / 1e6
    print(f"{len(pins)} packages in {len(parts)} parts, {size:.0f} MB, in {options.target}")


if __name__ == "__main__":
    main()
