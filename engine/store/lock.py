"""One writing run at a time: a kernel lock on a local workspace, an object with a heartbeat on S3."""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK_NAME = ".lock"
BEAT_SECONDS = 15.0


class Held:
    """A lock that this process holds.

    Each owner has a higher fencing token than the one before. The tables carry the token of the last owner, so that an
    earlier one that wakes up can change nothing (`fence.py`).
    """

    def __init__(self, token: int, move: Callable[[int], bool]) -> None:
        self.token = token
        self.lost = False
        """Whether another run has taken the lock over."""
        self._move = move

    def outrank(self, found: int) -> None:
        """Makes the token higher than one found in a table, unless it is: the lock, and its count, may have been deleted."""
        if found >= self.token:
            self.lost = self.lost or not self._move(found + 1)
            self.token = found + 1


@contextmanager
def workspace_lock(uri: str, run_id: str) -> Iterator[Held]:
    """Holds the workspace's lock during the block.

    Raises ValueError if another run holds it, with the name of that run, or if the store does not support locks.
    """
    with _object_lock(uri, run_id) if "://" in uri else _file_lock(uri, run_id) as held:
        yield held


def owner(run_id: str) -> dict[str, Any]:
    """Identity of the lock's owner, shown to a run that is refused."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(), "started": started}


def refusal(uri: str, content: bytes, fix: str) -> ValueError:
    """The error of a run that finds the lock, with this content, taken."""
    try:
        other = json.loads(content)
        who = f"run {other['run_id']} (pid {other['pid']} on {other['host']}, started {other['started']})"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return ValueError(f"{who} is writing to workspace {uri}; wait until it ends, {fix}")


def fence_in(content: bytes) -> int:
    """The fencing token in the content of a lock; 0 if there is none."""
    try:
        return int(json.loads(content)["fence"])
    except (ValueError, KeyError, TypeError):
        return 0


@contextmanager
def _file_lock(uri: str, run_id: str) -> Iterator[Held]:
    # flock, not lockf: a POSIX lock is dropped as soon as any part of the process closes the file. The file is never
    # deleted, since a third run could then lock a new one while the second waits for the old one.
    fd = os.open(Path(uri) / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "stop that process (the lock goes with it), or give another workspace"
            raise refusal(uri, os.pread(fd, 4096, 0), fix) from None
        mine = owner(run_id)

        def write(token: int, **values: Any) -> bool:
            """Whether the lock is still the workspace's: a deleted one may have a successor."""
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(values | {"fence": token}).encode(), 0)
            with suppress(FileNotFoundError):
                return os.path.samestat(os.fstat(fd), os.stat(Path(uri) / LOCK_NAME))
            return False

        held = Held(fence_in(os.pread(fd, 4096, 0)) + 1, lambda token: write(token, **mine))
        write(held.token, **mine)
        try:
            yield held
        finally:
            write(held.token)
    finally:
        os.close(fd)


@contextmanager
def _object_lock(uri: str, run_id: str) -> Iterator[Held]:
    from engine.store.object_lock import ObjectLock

    done = threading.Event()
    lock = ObjectLock(uri, LOCK_NAME, owner(run_id))
    try:
        lock.acquire()
    except OSError as error:
        raise ValueError(f"cannot lock workspace {uri}: {error}; see that it can be written to") from error
    held = Held(lock.fence, lock.move)

    def beat() -> None:
        while not held.lost and not done.wait(BEAT_SECONDS):
            held.lost = not lock.renew()

    thread = threading.Thread(target=beat, name="workspace-lock", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()
        if not held.lost:
            with suppress(OSError):  # if the store is unavailable, the lock becomes stale and is thereby free
                lock.release()
