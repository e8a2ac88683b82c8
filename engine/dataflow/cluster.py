"""Connects to a Ray cluster, or starts one on this machine for as long as it is needed."""

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from engine.cpus import usable_cpus
from engine.failures import RunFailed

START_ATTEMPTS = 3
SMALL_MACHINE = {
    "RAY_agent_register_timeout_ms": "120000",  # Ray's 15 s are too few for a busy machine
    # idle processes are kept for the next task: a new one imports its libraries for 13 s and reads for a tenth of one
    "RAY_num_workers_soft_limit": str(2 * usable_cpus() + 4),
}
"""What a Ray on one small machine needs in its environment."""


class RayConnection:
    """Ray, connected when it is first needed; a context manager, which ends what it started.

    The Ray that is already connected, the one that `RAY_ADDRESS` or a Ray job names, or a local one with its own temporary
    folder and access token.
    """

    def __init__(self) -> None:
        self._open: ExitStack | None = None
        self._connected = False
        self.is_private = False
        """Whether this process started the cluster for itself, so that no node will ever join it."""

    def check(self) -> None:
        """Raises RunFailed when the cluster that this process started has lost its head: Ray would end this process without
        a word some seconds later."""
        if not self.is_private:
            return
        import ray._private.worker

        node = ray._private.worker._global_node
        dead = {kind for kind, _ in node.dead_processes()} if node else set()
        if dead & {"raylet", "gcs_server"}:
            raise RunFailed(
                "Ray on this machine was killed (memory that runs out is the usual reason); what was committed stays, "
                "run the same command again to go on"
            )

    def connect(self) -> None:
        """Connects, if that has not been done.

        Raises:
            ValueError: ray was imported before its access token was set.
        """
        if self._connected:
            return
        stack = ExitStack()
        try:
            self.is_private = stack.enter_context(_connected())
        except BaseException:
            stack.close()
            raise
        self._open, self._connected = stack, True

    def __enter__(self) -> "RayConnection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._open, self._connected = self._open, None, False
        if stack:
            stack.close()


@contextmanager
def connected_cluster() -> Iterator[RayConnection]:
    """Ray, connected at once; see `RayConnection`."""
    with RayConnection() as connection:
        connection.connect()
        yield connection


_private = False


@contextmanager
def _connected() -> Iterator[bool]:
    """Yields whether the cluster is this process's own."""
    global _private
    given = sys.modules.get("ray")
    if not (given and given.is_initialized()):
        _prepare_environment(imported=given is not None)
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run prints its own line
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray execs right after it forks
    if ray.is_initialized():
        yield _private
    elif "RAY_ADDRESS" in os.environ:
        with _own_signals():
            ray.init(address="auto", logging_level=logging.ERROR)
        try:
            yield False
        finally:
            ray.shutdown()
    else:
        # socket paths must be short, so not below a user's TMPDIR
        folder = Path(tempfile.mkdtemp(prefix="foundry-", dir="/tmp" if Path("/tmp").is_dir() else None))
        try:
            with _own_signals():
                _start_locally(str(folder))
            _private = True
            _keep_words_of_deaths()
            yield True
        finally:
            _private = False
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _keep_words_of_deaths() -> None:
    """Drops Ray's lines (twelve for a process, sixty for a node) about each death; the pool says one of its own.

    `IMAGEFOUNDRY_WORKER_LOGS=1` shows them, and what workers print.
    """
    if os.environ.get("IMAGEFOUNDRY_WORKER_LOGS") != "1":
        import ray._private.worker

        ray._private.worker.print_to_stdstream = lambda *arguments, **named: None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the process's handler of SIGTERM, which `ray.init` replaces by one that ends in a crash."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, where Ray set none either
            signal.signal(signal.SIGTERM, handler)


def _start_locally(folder: str) -> None:
    """Starts a Ray on this machine; a busy one may miss the half minute that Ray gives its processes, so it is tried again."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=None if os.environ.get("RAY_OVERRIDE_RESOURCES") else usable_cpus(),
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=os.environ.get("IMAGEFOUNDRY_WORKER_LOGS") == "1",
                _temp_dir=folder,
            )
            return
        except Exception:
            ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                raise


def _prepare_environment(imported: bool) -> None:
    """What Ray reads from the environment, most of it when it is first imported."""
    if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on every interface, so nobody may talk to it without the token
        if imported:
            raise ValueError("ray was imported before its token was set; import ray after the cluster is connected")
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do by itself, without its warning
    for name, value in SMALL_MACHINE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault(
        "RAY_IGNORE_UNHANDLED_ERRORS", "1"
    )  # calls of a worker that died, which the pool has put back
