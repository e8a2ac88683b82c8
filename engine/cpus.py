"""Number of CPUs that this process may use: limited by its affinity and by the quota of its container."""

import math
import os
from pathlib import Path, PurePosixPath

_V1_FOLDERS: tuple[str, ...] = ("cpu,cpuacct", "cpu", "cpuacct,cpu")
_V2_FOLDERS: tuple[str, ...] = ("", "unified")


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: its affinity or its cgroup's quota rounded up, whichever is less.

    `os.cpu_count()` counts the machine's instead, so that a container of 2 CPUs on a node of 96 would start 96 threads.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    pinned = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = read_quota(Path("/"))
    return max(1, pinned if quota is None else min(pinned, math.ceil(quota)))


def read_quota(root: Path) -> float | None:
    """CPUs that the process's cgroups allow, such as 1.5; None without a limit.

    The tightest limit of a group and its parents applies, so all of them are read, of cgroup v1 and v2.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            folders = _V2_FOLDERS
        elif "cpu" in controllers.split(","):
            folders = _V1_FOLDERS
        else:
            continue
        for name in folders:
            for group in _group_and_parents(root / "sys/fs/cgroup" / name, path):
                limit = _v2_limit(group) if folders is _V2_FOLDERS else _v1_limit(group)
                if limit is not None:
                    found.append(limit)
    return min(found, default=None)


def _group_and_parents(mount: Path, path: str) -> list[Path]:
    """Folders from the mount down to the group. Inside a container the mount may itself be the group that the path names,
    so missing folders are not an error."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _v2_limit(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
        return None


def _v1_limit(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
