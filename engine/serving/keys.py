"""API keys: rows of the table `keys`, of which only hashes are kept, and the ring of keys that a server accepts."""

import hashlib
import hmac
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from engine.serving.callers import Caller
from engine.store import Workspace
from engine.store.rows import quote

KEY_VARIABLE = "IMAGEFOUNDRY_API_KEY"
"""Environment variable that holds the server's own key."""
OWN = Caller("server", "server")
"""The caller behind the server's own key, which is in no table; the id stays, so that its images do."""
MIN_OWN_CHARS = 16
MAX_NAME_CHARS = 100
MAX_RATE = 2**31 - 1
REFRESH_SECONDS = 1.0
"""A key that is added or revoked while a server runs is known to it after this time at most."""


def new_key() -> str:
    """A new key: `if-` and 43 url-safe random characters (256 bits)."""
    return "if-" + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """SHA-256 of a key, 64 hexadecimal digits. A slow hash is for passwords; a key cannot be guessed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def own_key(environment: Mapping[str, str] = os.environ) -> tuple[str, bool]:
    """The server's own key, and whether it was made now: the value of `IMAGEFOUNDRY_API_KEY`, otherwise a new key.

    Raises ValueError if the value is shorter than 16 characters, or has others than printable ASCII.
    """
    key = environment.get(KEY_VARIABLE, "")
    if not key:
        return new_key(), True
    if len(key) < MIN_OWN_CHARS or not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"{KEY_VARIABLE} is no safe key; give {MIN_OWN_CHARS} or more letters and digits, no spaces")
    return key, False


def add_key(
    workspace: Workspace, name: str, rate_per_minute: int | None = None, budget_usd: float | None = None
) -> tuple[str, str]:
    """Adds a key to the table; returns (key, its public id). The key cannot be read again: the row has its hash alone.

    Args:
        workspace: the server's workspace.
        name: name for people, 1 to 100 printable characters.
        rate_per_minute: images per minute; None for no limit.
        budget_usd: US dollars that its images may cost in all; None for no limit.

    Raises ValueError if a value is invalid, or if another key that is not revoked has this name.
    """
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_CHARS:
        raise ValueError(f"the name {name!r} is invalid; give 1 to {MAX_NAME_CHARS} printable characters")
    if rate_per_minute is not None and not 1 <= rate_per_minute <= MAX_RATE:
        raise ValueError(f"rate_per_minute is {rate_per_minute}; give 1 to {MAX_RATE}, or leave it out for no limit")
    if budget_usd is not None and not (math.isfinite(budget_usd) and budget_usd > 0):
        raise ValueError(f"budget_usd is {budget_usd}; give a positive number, or leave it out for no limit")
    if any(row["name"] == name and not row["revoked"] for row in list_keys(workspace)):
        raise ValueError(f"there is a key named {name!r}; give another name, or revoke that key first")
    key, key_id = new_key(), f"key-{secrets.token_hex(8)}"
    row = {"key_id": key_id, "name": name, "hash": hash_key(key), "created_at": datetime.now(UTC)}
    row |= {"rate_per_minute": rate_per_minute or 0, "budget_usd": budget_usd or 0.0, "revoked": False}
    workspace.add_rows("keys", pa.Table.from_pylist([row]))
    return key, key_id


def list_keys(workspace: Workspace) -> list[dict[str, Any]]:
    """All keys, oldest first: the columns of the table without the hash."""
    table = workspace.read("keys").drop_columns(["hash"])
    rows: list[dict[str, Any]] = table.sort_by("created_at").to_pylist()
    return rows


def revoke_key(workspace: Workspace, name_or_id: str) -> str:
    """Revokes a key; returns its public id. Running servers refuse it within a second, and the sessions made with it.

    Raises ValueError if no key, or more than one, that is not revoked has this id or name.
    """
    rows = [row for row in list_keys(workspace) if name_or_id in (row["key_id"], row["name"])]
    found = [str(row["key_id"]) for row in rows if not row["revoked"]]
    if not found:
        state = "is revoked already" if rows else "does not exist"
        raise ValueError(f"the key {name_or_id!r} {state}; `imagefoundry keys list` names all")
    if len(found) > 1:
        raise ValueError(f"several keys are named {name_or_id!r} ({', '.join(found)}); give the id of one")
    with workspace.writing("keys") as table:
        table.update({"revoked": "true"}, where=f"key_id = {quote(found[0])}")
    return found[0]


class KeyRing:
    """The keys that a server accepts: those of the table that are not revoked, and extra ones.

    It holds hashes alone. It may be used from several threads, and pickled.
    """

    def __init__(
        self,
        workspace: Workspace,
        extra: Mapping[str, Caller] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`extra`: hash of the key → caller, of keys that are not in the table. `clock`: seconds, of any origin."""
        self._workspace = workspace
        self._clock = clock
        self._extra = tuple((extra or {}).items())
        self._reset()

    def _reset(self) -> None:
        self._refreshing = threading.Lock()
        self._callers = self._extra
        self._version: int | None = None
        self._read_at = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        # another process has another clock, and reads the table itself
        return {"_workspace": self._workspace, "_clock": self._clock, "_extra": self._extra}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def is_stale(self) -> bool:
        """Whether the table was not read for a second, so that the next call reads it."""
        return self._clock() - self._read_at >= REFRESH_SECONDS

    def refresh(self) -> None:
        """Reads the table if that is due. Raises what the store raises; the keys are then read again at the next call."""
        asked = self._clock()
        with self._refreshing:
            if asked - self._read_at < REFRESH_SECONDS:  # another thread has read it meanwhile
                return
            now = self._clock()
            dataset = self._workspace.dataset("keys")
            if dataset.version != self._version:
                rows = dataset.to_table(filter="NOT revoked").to_pylist()
                self._callers = (*self._extra, *((row["hash"], _caller(row)) for row in rows))
                self._version = dataset.version
            self._read_at = now

    def find(self, secret: str) -> Caller | None:
        """The caller whose key is `secret`, or None. The time it takes does not depend on how much of a key is right."""
        if self.is_stale():
            self.refresh()
        digest, found = hash_key(secret), None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def by_id(self, key_id: str) -> Caller | None:
        """The caller with this public id, or None if there is no such key or it was revoked."""
        if self.is_stale():
            self.refresh()
        return next((caller for _, caller in self._callers if caller.key_id == key_id), None)


def _caller(row: dict[str, Any]) -> Caller:
    return Caller(row["key_id"], row["name"], row["rate_per_minute"] or None, row["budget_usd"] or None)
