"""A lock that is one S3 object: every change is conditional on the previous content.

No clock of another machine is trusted: the owner counts its own seconds, and a lock that looks old by the store's clock is watched
before it is taken over. If a clock is wrong all the same, or an owner sleeps, the fencing token in the tables protects them (`fence.py`).
"""

import json
import threading
import time
import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from engine.store.lock import BEAT_SECONDS, fence_in, refusal

STALE_SECONDS = 60.0
"""A lock that was not renewed for this long belongs to a dead run."""
WATCH_SECONDS = BEAT_SECONDS + 5.0
"""A lock that looks dead is watched for this long, so that a wrong clock ends no live run; a live one is renewed meanwhile."""
PRECONDITION_FAILED = 412

sleep = time.sleep


class ObjectLock:
    """The lock object `name` of the workspace at `uri` (`s3://…`), requested or held by one run.

    Raises ValueError for a store other than S3.
    """

    def __init__(self, uri: str, name: str, owner: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        import fsspec

        protocol, _, place = uri.partition("://")
        if protocol != "s3":
            fix = "give a folder or a place on s3:// as workspace"
            raise ValueError(
                f"workspace {uri} cannot be locked, since {protocol}:// has no conditional writes here; {fix}"
            )
        try:
            self._fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise ValueError(f"workspace {uri} needs a package that is not installed: {error}") from error
        self._uri = uri
        bucket, _, prefix = place.partition("/")
        self._object = {"Bucket": bucket, "Key": f"{prefix}/{name}".lstrip("/")}
        self._owner = owner | {"token": uuid.uuid4().hex}
        self._clock = clock
        self._beats = 0
        self._etag = ""
        self._renewed = 0.0
        self._mutex = threading.Lock()
        self.fence = 0
        """The fencing token: higher than that of every earlier owner."""

    def acquire(self) -> None:
        """Takes the lock if it is free, released or dead. Raises ValueError, with the owner's name, otherwise."""
        content, etag, age = self._read()
        if not self._is_own(content):  # the answer to an earlier try may have been lost
            if etag and not self._is_released(content) and (age < STALE_SECONDS or not self._is_silent(etag)):
                fix = f"or, if it died, start again {STALE_SECONDS:.0f} seconds after its last sign of life"
                raise refusal(self._uri, content, fix)
            self.fence = fence_in(content) + 1
            self._renewed = self._clock()
            if self._put({"IfMatch": etag} if etag else {"IfNoneMatch": "*"}):
                return
            content, etag, _ = self._read()
            if not self._is_own(content):
                raise refusal(self._uri, content, "or give another workspace")
        self._etag = etag

    def _is_silent(self, etag: str) -> bool:
        """Whether nobody renews the lock while this run watches it by its own clock."""
        until = self._clock() + min(STALE_SECONDS, WATCH_SECONDS)
        while self._clock() < until:
            sleep(1.0)
            if self._read()[1] != etag:
                return False
        return True

    def move(self, fence: int) -> bool:
        """Raises the fencing token to `fence`; false if another run has the lock."""
        with self._mutex:
            self.fence = fence
            return self._renew()

    def renew(self) -> bool:
        """Renews the heartbeat; false if another run has the lock, or may have it because no heartbeat arrived in time."""
        with self._mutex:
            return self._renew()

    def _renew(self) -> bool:
        began = self._clock()
        try:
            if not self._put({"IfMatch": self._etag}):
                content, etag, _ = self._read()
                if not self._is_own(content):
                    return False
                self._etag = etag  # the answer to an earlier heartbeat was lost
                if fence_in(content) != self.fence and not self._put({"IfMatch": etag}):
                    return False
        except Exception:  # a short outage of the store is no reason to give up the lock before it is stale
            return self._clock() - self._renewed < STALE_SECONDS
        self._renewed = began
        return True

    def release(self) -> None:
        """Frees the lock, unless another run already has it."""
        # overwritten, not deleted: not every store supports a conditional delete
        if not self._put({"IfMatch": self._etag}, released=True):
            content, etag, _ = self._read()
            if self._is_own(content) and not self._is_released(content):
                self._put({"IfMatch": etag}, released=True)

    def _put(self, condition: dict[str, str], *, released: bool = False) -> bool:
        """Writes the lock if the condition holds; false if it does not."""
        self._beats += 1  # equal contents would have equal tags, and a renewed lock could be taken for stale
        body = json.dumps(self._owner | {"fence": self.fence, "beat": self._beats, "released": released}).encode()
        try:
            reply = self._fs.call_s3("put_object", **self._object, Body=body, **condition)
        except OSError as error:
            if _status(error) in (PRECONDITION_FAILED, 404):
                return False
            raise
        self._etag = reply["ETag"]
        return True

    def _read(self) -> tuple[bytes, str, float]:
        """Content, tag and age in seconds; an empty tag if there is no lock."""
        from fsspec.asyn import sync

        try:
            reply = self._fs.call_s3("get_object", **self._object)
        except FileNotFoundError:
            return b"", "", 0.0
        content: bytes = sync(self._fs.loop, reply["Body"].read)
        headers = reply["ResponseMetadata"]["HTTPHeaders"]
        age = parsedate_to_datetime(headers["date"]) - parsedate_to_datetime(headers["last-modified"])
        return content, reply["ETag"], age.total_seconds()

    def _is_own(self, content: bytes) -> bool:
        return _value(content, "token") == self._owner["token"]

    def _is_released(self, content: bytes) -> bool:
        return _value(content, "released") is True


def _value(content: bytes, name: str) -> Any:
    try:
        values = json.loads(content)
    except ValueError:
        return None
    return values.get(name) if isinstance(values, dict) else None


def _status(error: BaseException) -> int:
    response: dict[str, Any] = getattr(error.__cause__, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
