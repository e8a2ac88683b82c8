"""`ApiError`: one sentence for a client, in the shape of OpenAI's API."""

from collections.abc import Mapping
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
"""HTTP status → `type` of the error object; every other status is a `server_error`."""


class ApiError(Exception):
    """An answer other than 2xx: HTTP status, one sentence, and what a program can read of it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        more_headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, code, param, retry_after, more_headers)
        self.status = status
        self.message = message
        self.code = code
        """Name of the cause, such as `queue_full`."""
        self.param = param
        """Field of the request that is wrong."""
        self.retry_after = retry_after
        """Seconds after which the client may try again."""
        self.more_headers = dict(more_headers or {})
        """Further headers of the answer, such as those about the key's rate."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, self.args

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """The error object: `message`, `type`, `code`, `param`."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "code": self.code, "param": self.param}}

    def headers(self) -> dict[str, str]:
        """`Retry-After` in whole seconds, if the client may try again, and the further headers."""
        when = {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}
        return self.more_headers | when


def _restore(
    status: int,
    message: str,
    code: str | None,
    param: str | None,
    retry_after: float | None,
    more_headers: Mapping[str, str] | None,
) -> ApiError:
    return ApiError(status, message, code=code, param=param, retry_after=retry_after, more_headers=more_headers)


_PARAMS = (
    ("negative", "negative_prompt"),
    ("guidance", "guidance_scale"),
    ("height", "size"),
    ("steps", "num_inference_steps"),
    ("reference_scale", "reference_scale"),
    ("reference_mode", "reference_mode"),
    ("reference", "references"),
    ("prompt", "prompt"),
)


def param_of(message: str) -> str | None:
    """The field of the request that a generator's error is about."""
    return next((param for word, param in _PARAMS if word in message), None)
