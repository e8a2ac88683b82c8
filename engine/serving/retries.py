"""Calls to other processes of the server: repeated when a process dies, with errors in the API's form."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from engine.serving.errors import ApiError

TRIES = 4
"""Processes that a request is sent to, one after the other, when they die or stop."""
RESTARTED = ("process_failed", "stopping")
"""Codes after which another process can answer."""

Result = TypeVar("Result")


async def tried(call: Callable[[], Awaitable[Result]]) -> Result:
    """The result of a call, which is repeated while processes die. Raises ApiError."""
    for left in reversed(range(TRIES)):
        try:
            return await call()
        except Exception as error:
            api_error = as_api_error(error)
            if not left or api_error.code not in RESTARTED:
                raise api_error from error
    raise AssertionError("the last try returns or raises")


def as_api_error(error: Exception) -> ApiError:
    """The error of another process as one of the API."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RayActorError):
        return ApiError(
            503, "the process that worked on the request died; try again", code="process_failed", retry_after=2
        )
    if isinstance(error, BackPressureError | DeploymentUnavailableError):
        return ApiError(503, "the server is full or starting; try again", code="unavailable", retry_after=2)
    raise error
