"""One writing run at a time: a kernel lock on a local workspace, an object with a heartbeat on a remote one."""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LOCK_NAME = ".lock"
STALE_SECONDS = 60.0
BEAT_SECONDS = 15.0
SETTLE_SECONDS = 1.0


def _owner(run_id: str) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(), "started": started}


def _refusal(uri: str, content: bytes, cure: str) -> ValueError:
    try:
        owner = json.loads(content)
        who = f"run {owner['run_id']} (pid {owner['pid']} on {owner['host']}, started {owner['started']})"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return ValueError(f"{who} is writing to workspace {uri}; wait until it ends, {cure}")


class Held:
    """A lock that this process took; `lost` becomes true when another run has taken it over."""

    def __init__(self) -> None:
        self.lost = False


@contextmanager
def workspace_lock(uri: str, run_id: str) -> Iterator[Held]:
    """Holds the workspace's lock for the length of the block.

    Raises ValueError, with the name of the other run, when that run holds it.
    """
    with _object_lock(uri, run_id) if "://" in uri else _file_lock(uri, run_id) as held:
        yield held


@contextmanager
def _file_lock(uri: str, run_id: str) -> Iterator[Held]:
    # flock, not lockf: a POSIX lock would be dropped as soon as any part of the process closed the file. The file is
    # never deleted, since a third run could then lock a new one while the second waits on the old.
    fd = os.open(Path(uri) / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cure = "stop that process (the lock goes with it), or give another workspace"
            raise _refusal(uri, os.pread(fd, 4096, 0), cure) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(_owner(run_id)).encode(), 0)
        try:
            yield Held()
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@contextmanager
def _object_lock(uri: str, run_id: str) -> Iterator[Held]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(f"{uri}/{LOCK_NAME}", use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise ValueError(f"workspace {uri} needs a package that is not installed: {error}") from error
    owner = _owner(run_id) | {"token": uuid.uuid4().hex}

    def read() -> dict[str, Any]:
        fs.invalidate_cache()
        try:
            content = json.loads(fs.cat_file(path))
        except FileNotFoundError:
            return {}
        except ValueError:
            return {"beat": 0.0}
        return content if isinstance(content, dict) else {"beat": 0.0}

    def write(mode: str) -> None:
        fs.pipe_file(path, json.dumps(owner | {"beat": time.time()}).encode(), mode=mode)

    found = read()
    if found and time.time() - found["beat"] < STALE_SECONDS:
        cure = f"or, if it died, start again {STALE_SECONDS:.0f} seconds after its last sign of life"
        raise _refusal(uri, json.dumps(found).encode(), cure)
    if found:
        fs.rm_file(path)
    with suppress(FileExistsError):  # who has it then is read below
        write("create")
    if found:
        # two runs that took over the same stale lock may each have deleted and created: the last one stays
        time.sleep(SETTLE_SECONDS)
    if (now := read()).get("token") != owner["token"]:
        raise _refusal(uri, json.dumps(now).encode(), "or give another workspace")

    held, done = Held(), threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while not done.wait(BEAT_SECONDS):
            try:
                if read().get("token") != owner["token"]:
                    held.lost = True
                    return
                write("overwrite")
                last = time.monotonic()
            except Exception:  # a store that is away for a moment is no reason to give up the lock before it is stale
                if time.monotonic() - last > STALE_SECONDS:
                    held.lost = True
                    return

    thread = threading.Thread(target=beat, name="workspace-lock", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()
        if not held.lost and read().get("token") == owner["token"]:
            fs.rm_file(path)
