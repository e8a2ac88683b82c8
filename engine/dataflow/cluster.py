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
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",  # Serve kills a proxy that is not ready in three times its 5 s
    # idle processes are kept for the next task: a new one imports its libraries for 13 s and then reads for 0.1 s
    "RAY_num_workers_soft_limit": str(2 * usable_cpus() + 4),
}
"""Environment variables of a Ray on one small machine."""


class RayConnection:
    """Ray, connected at its first use; a context manager that ends what it started.

    Uses the Ray that is connected, else the one that `RAY_ADDRESS` or a Ray job names, else a local one with its own
    temporary folder and access token.
    """

    def __init__(self) -> None:
        self._open: ExitStack | None = None
        self._connected = False
        self.is_private = False
        """Whether this process started the cluster for itself, so that no other node will ever join it."""

    def check(self) -> None:
        """Raises RunFailed if the cluster that this process started has lost its head. Ray would end this process
        some seconds later without a message otherwise."""
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
        """Connects, unless already connected.

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
    """Ray, connected immediately; see `RayConnection`."""
    with RayConnection() as connection:
        connection.connect()
        yield connection


_private = False


@contextmanager
def _connected() -> Iterator[bool]:
    """Yields whether the cluster belongs to this process."""
    global _private
    given = sys.modules.get("ray")
    if not (given and given.is_initialized()):
        _prepare_environment(imported=given is not None)
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run prints its own progress line
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
        # socket paths must be short, so the folder is not below a user's TMPDIR
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
    """Drops Ray's lines about each death (twelve per process, sixty per node); the pool prints one of its own.

    `IMAGEFOUNDRY_WORKER_LOGS=1` shows them, together with the output of the workers.
    """
    if os.environ.get("IMAGEFOUNDRY_WORKER_LOGS") != "1":
        import ray._private.worker

        ray._private.worker.print_to_stdstream = lambda *arguments, **named: None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the process's handler of SIGTERM; `ray.init` replaces it with one that crashes."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not the main thread, in which case Ray set no handler
            signal.signal(signal.SIGTERM, handler)


def _start_locally(folder: str) -> None:
    """Starts Ray on this machine; retries, since a busy machine may exceed the 30 s that Ray gives its processes.

    Raises RunFailed if all tries fail.
    """
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
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise RunFailed(
                    f"Ray did not start on this machine in {START_ATTEMPTS} tries ({reason.rstrip('.')}); end what keeps its processors or its "
                    "memory busy and run the same command again, or name a cluster that runs with RAY_ADDRESS"
                ) from error


def _prepare_environment(imported: bool) -> None:
    """Sets the variables that Ray reads from the environment, most of them at its first import."""
    if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
        # Ray listens on every interface, so nobody may connect without the token
        if imported:
            raise ValueError("ray was imported before its token was set; import ray after the cluster is connected")
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's future default; avoids its warning
    for name, value in SMALL_MACHINE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # calls of a dead worker, which the pool has put back
