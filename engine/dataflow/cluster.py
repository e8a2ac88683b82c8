"""Connects to a Ray cluster, or starts one on this machine for as long as it is needed."""

import logging
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_ATTEMPTS = 3
SMALL_MACHINE = {
    "RAY_agent_register_timeout_ms": "120000",  # Ray's 15 s are too few for a busy machine
    # idle processes are kept for the next task: a new writer imports its libraries for 13 s and writes for a tenth of one
    "RAY_num_workers_soft_limit": str(2 * (os.cpu_count() or 1) + 4),
}
"""What a Ray on one small machine needs in its environment."""


@contextmanager
def connected_cluster() -> Iterator[None]:
    """Ray, ready for use: the one already connected to, the one `RAY_ADDRESS` or a Ray job names, or a local one.

    A local Ray has its own temporary folder and access token and ends with the block; one that was there is left.

    Raises:
        ValueError: ray was imported before it could be told its access token.
    """
    given = sys.modules.get("ray")
    if not (given and given.is_initialized()):
        _prepare_environment(imported=given is not None)
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # the run prints its own line
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray execs right after it forks
    if ray.is_initialized():
        yield
    elif "RAY_ADDRESS" in os.environ:
        ray.init(address="auto", logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
    else:
        # socket paths must be short, so not below a user's TMPDIR
        folder = Path(tempfile.mkdtemp(prefix="foundry-", dir="/tmp" if Path("/tmp").is_dir() else None))
        try:
            _start_locally(str(folder))
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _start_locally(folder: str) -> None:
    """Starts a Ray on this machine; a busy one may miss the half minute that Ray gives its processes, so it is tried again."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
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
