"""`imagefoundry serve`: starts the server on this machine (or on a connected cluster) and stops it without losing a request."""

import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from engine.failures import RunFailed
from engine.serving.config import ServeConfig
from engine.serving.keys import KEY_VARIABLE, OWN, hash_key, own_key
from engine.store import Workspace

PROXY_SECONDS = 300.0
"""Seconds in which the proxies must answer after Serve has started."""


def run_server(config: ServeConfig) -> int:
    """Serves until the process is asked to stop (Ctrl-C or SIGTERM), then answers what is in flight; returns 0.

    Raises:
        ValueError: one sentence on what is wrong with the input and how to fix it.
    """
    with serving(config) as (url, key, is_new):
        print(f"Pages: {url}/\nOpenAI base URL: {url}/v1\nWorkspace: {config.workspace}", file=sys.stderr)
        if is_new:
            print(f"API key: {key}   (set {KEY_VARIABLE} to choose one)", file=sys.stderr)
        print("Stop with Ctrl-C.", file=sys.stderr, flush=True)
        _wait_for_a_signal()
        print("Stopping; requests in flight are answered first.", file=sys.stderr, flush=True)
    return 0


@contextmanager
def serving(config: ServeConfig) -> Iterator[tuple[str, str, bool]]:
    """A running server for a block: its URL, its own API key, and whether the key was made now."""
    config.check()
    config = replace(config, workspace=Workspace.open(config.workspace).uri)
    key, is_new = own_key()
    from engine.dataflow.cluster import connected_cluster

    with connected_cluster() as connection:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        from engine.serving.deployments import NAME, build_application
        from engine.serving.writer_actor import stop_writer

        _start_serve(config)
        try:
            application = build_application(
                config, secrets.token_bytes(32), {hash_key(key): OWN}, may_grow=not connection.is_private
            )
            serve.run(application, name=NAME, route_prefix="/", logging_config={"log_level": "WARNING"})
            yield f"http://{config.host}:{config.port}", key, is_new
        finally:
            # a shutdown alone drops what is in flight
            serve.delete(NAME)
            stop_writer(config.workspace)
            serve.shutdown()


def _start_serve(config: ServeConfig) -> None:
    """Starts Ray Serve; returns when its proxies answer.

    Its controller kills a proxy that is not ready in time, as on a busy machine, and starts another, while `serve.start` fails with
    the killed one, or after 60 s. Raises RunFailed after `PROXY_SECONDS`.
    """
    from ray import serve
    from ray.exceptions import RayActorError

    options = {"host": config.host, "port": config.port}
    try:
        serve.start(http_options=options)
    except (RayActorError, TimeoutError):
        serve.start(http_options=options)  # connects to the controller, which runs
    patience = time.monotonic() + PROXY_SECONDS
    while not (found := serve.status().proxies) or any(state != "HEALTHY" for state in found.values()):
        if time.monotonic() > patience:
            raise RunFailed(
                f"Ray Serve's proxy did not answer in {PROXY_SECONDS:.0f} s; end what keeps this machine busy and run the "
                "same command again"
            )
        time.sleep(0.1)


def _wait_for_a_signal() -> None:
    asked = threading.Event()

    def stop(number: int, frame: Any) -> None:
        asked.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not asked.wait(1.0):
            pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
