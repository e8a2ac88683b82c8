import subprocess
import sys
from pathlib import Path

import pytest

from engine import cpus

V2 = "0::/kubepods/pod1/container\n"
V1 = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n0::/\n"


def _write(root: Path, group: str, files: dict[str, str]) -> Path:
    """A fake root: `proc/self/cgroup`, and files below `sys/fs/cgroup`."""
    contents = {"proc/self/cgroup": group} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _v1(quota: int, period: int = 100000, folder: str = "cpu,cpuacct") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ("0::/\n", {"cpu.max": "100000 0\n"}, None),
        (V2, {"kubepods/pod1/container/cpu.max": "400000 100000"}, 4.0),
        (V2, {"kubepods/pod1/container/cpu.max": "max 100000", "kubepods/pod1/cpu.max": "300000 100000"}, 3.0),
        (V2, {"kubepods/pod1/container/cpu.max": "400000 100000", "kubepods/cpu.max": "50000 100000"}, 0.5),
        (V2, {"cpu.max": "200000 100000"}, 2.0),  # seen from inside the container, whose group is the mount
        ("0::/../../pod2\n", {"pod2/cpu.max": "200000 100000"}, 2.0),
        (V1, _v1(250000), 2.5),
        (V1, _v1(-1), None),
        (V1, _v1(-1) | _v1(100000, 50000, "cpu,cpuacct/docker/abc"), 2.0),
        (V1, _v1(100000) | _v1(400000, folder="cpu,cpuacct/docker"), 1.0),
        ("4:cpu:/\n", _v1(300000, folder="cpu"), 3.0),
        ("5:memory:/\n", _v1(300000, folder="cpu"), None),
        ("1:cpu:/\n0::/\n", _v1(300000, folder="cpu") | {"unified/cpu.max": "200000 100000"}, 2.0),
    ],
)
def test_the_tightest_quota_above_a_process_counts(
    group: str, files: dict[str, str], quota: float | None, tmp_path: Path
):
    assert cpus.read_quota(_write(tmp_path, group, files)) == quota


def test_a_machine_without_cgroups_has_no_quota(tmp_path: Path):
    assert cpus.read_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("pinned", "quota", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.1, 1), (2, 16.0, 2), (1, 0.5, 1)]
)
def test_affinity_and_quota_both_count(pinned: int, quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpus.os, "sched_getaffinity", lambda process: set(range(pinned)), raising=False)
    monkeypatch.setattr(cpus, "read_quota", lambda root: quota)
    assert cpus.usable_cpus() == usable


def test_counting_cpus_loads_nothing():
    code = "import sys, engine.cpus; engine.cpus.usable_cpus(); print([n for n in ('torch', 'numpy', 'ray') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"
