"""Fetches pictures by their addresses; each is its bytes, or the reason why there are none."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from engine.sources.fetching.addresses import REFUSED, AddressRefused, guarded_sockets
from engine.sources.fetching.hosts import Hosts
from engine.sources.fetching.robots import Robots, refusing_tag

if TYPE_CHECKING:
    import aiohttp

ROBOTS_BYTES = 512 * 1024
"""Bytes of a robots.txt that are read (RFC 9309 asks for 500 KiB at least)."""
MAX_ROBOTS = 20_000
"""Hosts whose robots.txt is remembered."""
REDIRECTS = frozenset((301, 302, 303, 307, 308))
TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which another try may succeed."""
LONGEST_RETRY_AFTER = 30.0
ANY_TYPES = frozenset(("", "application/octet-stream", "binary/octet-stream"))
"""Types that say nothing; the bytes tell whether it is a picture."""
CHUNK = 1 << 16


@dataclass(frozen=True)
class FetchLimits:
    """Limits of politeness, time and size."""

    agent: str = "imagefoundry"
    """Name to which robots.txt and X-Robots-Tag speak; the User-Agent begins with it."""
    contact: str = ""
    """Address of whoever runs the crawl (mail or page), added to the User-Agent so that sites can reach you."""
    connections: int = 64
    """Requests at once, over all hosts."""
    per_host: int = 2
    """Requests at once to one host."""
    seconds_between: float = 0.5
    """Seconds from the begin of a request to that of the next to the same host."""
    timeout_seconds: float = 15.0
    """Seconds for one picture, redirects included, without the wait for its turn."""
    max_bytes: int = 20_000_000
    """Largest picture."""
    max_redirects: int = 4
    """Redirects of one address."""
    retries: int = 2
    """Further tries after a failure that may pass: time-outs, broken connections, overloaded servers."""
    retry_seconds: float = 1.0
    """Pause before the first further try, twice as long before each next one."""
    allow_networks: tuple[str, ...] = ()
    """Networks beside the public internet that pictures may come from, such as 127.0.0.0/8; none by default."""

    def check(self) -> None:
        """Raises ValueError if a limit is invalid."""
        positive = {name: getattr(self, name) for name in ("connections", "per_host", "timeout_seconds", "max_bytes")}
        rest = {name: getattr(self, name) for name in ("seconds_between", "max_redirects", "retries", "retry_seconds")}
        for name, value in (positive | rest).items():
            if value < 0 or (name in positive and not value):
                raise ValueError(f"{name} is {value}; give {'more than 0' if name in positive else '0 or more'}")
        if not self.agent.isascii() or not self.agent.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"agent {self.agent!r} is no name of a crawler; give letters, digits, - and _ alone")
        if any(not character.isprintable() or character in "()" for character in self.contact):
            raise ValueError(
                "the contact has brackets or characters that cannot be printed; give a mail address or a URL"
            )
        try:
            guarded_sockets(self.allow_networks)
        except ValueError as error:
            raise ValueError(f"allow_networks: {error}; give networks such as 127.0.0.0/8") from None

    @property
    def user_agent(self) -> str:
        """The header."""
        return f"{self.agent}/1.0" + (f" (+{self.contact})" if self.contact else "")


@dataclass(frozen=True)
class Fetched:
    """What became of one address."""

    data: bytes = b""
    sha256: str = ""
    """Hash of the bytes."""
    reason: str = ""
    """Why there are none; equal words for equal faults."""


class _Failed(Exception):
    """A reason why there is no picture."""

    def __init__(self, reason: str, may_pass: bool = False, wait: float = 0.0):
        super().__init__(reason)
        self.may_pass, self.wait = may_pass, wait


class Fetcher:
    """An async context manager that fetches pictures; robots.txt and the turns of the hosts outlive its block."""

    def __init__(self, limits: FetchLimits):
        """Raises ValueError if a limit is invalid."""
        limits.check()
        self.limits = limits
        self._hosts = Hosts(limits.per_host, limits.seconds_between)
        self._robots: dict[str, asyncio.Task[Robots | str]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Fetcher":
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.limits.connections, socket_factory=guarded_sockets(self.limits.allow_networks)
            ),
            headers={
                "User-Agent": self.limits.user_agent,
                "Accept": "image/*,*/*;q=0.1",
                "Accept-Encoding": "identity",
            },
            # an answer that is compressed all the same stays so, and is refused: a few bytes could become gigabytes
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=["Accept-Encoding"],
        )
        self._slots = asyncio.Semaphore(self.limits.connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._robots.values():
            task.cancel()
        self._robots = {host: task for host, task in self._robots.items() if task.done() and not task.cancelled()}
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch_all(self, urls: Sequence[str]) -> list[Fetched]:
        """Fetches these addresses, each once, as many at once as the limits allow; results in their order."""
        tasks = {url: asyncio.create_task(self.fetch(url)) for url in dict.fromkeys(urls)}
        await asyncio.gather(*tasks.values())
        return [tasks[url].result() for url in urls]

    async def fetch(self, url: str) -> Fetched:
        """Fetches one picture; never raises for a bad address, server or picture."""
        pause = self.limits.retry_seconds
        for left in reversed(range(self.limits.retries + 1)):
            try:
                data = await self._follow(url)
                return Fetched(data, sha256(data).hexdigest())
            except _Failed as failed:
                if not failed.may_pass or not left:
                    return Fetched(reason=str(failed))
                await asyncio.sleep(max(pause, failed.wait))
                pause *= 2
        raise AssertionError("the last try returns")

    async def _follow(self, url: str) -> bytes:
        """The bytes at the end of the redirects. Raises _Failed."""
        seen: set[str] = set()
        for _ in range(self.limits.max_redirects + 1):
            if url in seen:
                raise _Failed("it redirects in a circle")
            seen.add(url)
            host = _checked_host(url)
            if reason := await self._forbidden(url):
                raise _Failed(reason)
            async with self._hosts.turn(host), self._slots:
                found = await self._request(url)
            if isinstance(found, bytes):
                return found
            url = found
        raise _Failed(f"more than {self.limits.max_redirects} redirects")

    async def _request(self, url: str) -> bytes | str:
        """The bytes of a picture, or the address that it redirects to. Raises _Failed."""
        import aiohttp

        assert self._session is not None, "a fetcher is entered first"
        try:
            async with (
                asyncio.timeout(self.limits.timeout_seconds),
                self._session.get(url, allow_redirects=False) as response,
            ):
                if response.status in REDIRECTS:
                    target = response.headers.get("Location", "")
                    if not target:
                        raise _Failed("a redirect without an address")
                    return urljoin(url, target)
                self._check_answer(url, response)
                return await self._body(response)
        except TimeoutError:
            raise _Failed(f"no answer within {self.limits.timeout_seconds:g} seconds", may_pass=True) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError, ValueError):
            raise _Failed("no address of a picture") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _connection_failed(error) from None

    def _check_answer(self, url: str, response: "aiohttp.ClientResponse") -> None:
        headers, status = response.headers, response.status
        if status in TRANSIENT:
            wait = headers.get("Retry-After", "")
            seconds = min(float(wait), LONGEST_RETRY_AFTER) if wait.isascii() and wait.isdigit() else 0.0
            self._hosts.wait(_checked_host(url), seconds)
            raise _Failed(f"status {status}", may_pass=True, wait=min(seconds, self.limits.retry_seconds))
        if status != 200:
            raise _Failed(f"status {status}")
        if tag := refusing_tag(headers.getall("X-Robots-Tag", []), self.limits.agent):
            raise _Failed(f"X-Robots-Tag: {tag}")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in ANY_TYPES:
            raise _Failed(f"its type is {kind[:60]}, no image")
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _Failed(f"a compressed answer ({encoding[:20]}), which nobody asked for")
        if (response.content_length or 0) > self.limits.max_bytes:
            raise _Failed(f"more than {self.limits.max_bytes:,} bytes")

    async def _body(self, response: "aiohttp.ClientResponse") -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > self.limits.max_bytes:
                raise _Failed(f"more than {self.limits.max_bytes:,} bytes")
        if not data:
            raise _Failed("an empty answer")
        return bytes(data)

    async def _forbidden(self, url: str) -> str:
        """Why robots.txt of the address's host forbids it; empty if it does not. Raises _Failed if the host is out of reach."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        task = self._robots.get(origin)
        if task is None:
            if len(self._robots) >= MAX_ROBOTS:
                self._robots.pop(next(iter(self._robots))).cancel()
            task = self._robots[origin] = asyncio.create_task(self._read_robots(origin))
        found = await asyncio.shield(task)
        if isinstance(found, str):
            if self._robots.get(origin) is task:
                del self._robots[origin]  # the next address asks again
            raise _Failed(found, may_pass=REFUSED not in found)
        path = parts.path or "/"
        return "" if found.allows(f"{path}?{parts.query}" if parts.query else path) else "robots.txt forbids it"

    async def _read_robots(self, origin: str) -> Robots | str:
        """The rules of a host, or why they are unknown: then nothing may be fetched from it (RFC 9309, 2.3.1.4)."""
        import aiohttp

        assert self._session is not None, "a fetcher is entered first"
        url, host = f"{origin}/robots.txt", _checked_host(origin)
        try:
            for _ in range(self.limits.max_redirects + 1):
                async with (
                    self._hosts.turn(host),
                    self._slots,
                    asyncio.timeout(self.limits.timeout_seconds),
                    self._session.get(url, allow_redirects=False) as response,
                ):
                    if response.status in REDIRECTS and (target := response.headers.get("Location")):
                        url = urljoin(url, target)
                        host = _checked_host(url)
                        continue
                    if response.status in TRANSIENT or response.status >= 500:
                        return f"robots.txt: status {response.status}"
                    is_text = response.headers.get("Content-Encoding", "identity").lower() == "identity"
                    if response.status != 200 or not is_text:
                        return Robots("", self.limits.agent)  # there is none: everything may be fetched
                    text = bytearray()
                    async for chunk in response.content.iter_chunked(CHUNK):
                        text += chunk
                        if len(text) >= ROBOTS_BYTES:
                            break
                    return Robots(bytes(text[:ROBOTS_BYTES]).decode("utf-8", "replace"), self.limits.agent)
            return Robots("", self.limits.agent)
        except TimeoutError:
            return "robots.txt: no answer in time"
        except _Failed as failed:
            return str(failed)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return str(_connection_failed(error))


def _checked_host(url: str) -> str:
    """Host of an http address. Raises _Failed if it is something else, or holds a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _Failed("no address of a picture") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _Failed("no address of a picture")
    if parts.username is not None:
        raise _Failed("an address with a password")
    return host


def _connection_failed(error: Exception) -> _Failed:
    """The reason for a failed connection, without what differs from host to host, so that equal faults are counted together."""
    import aiohttp

    cause = getattr(error, "os_error", error)  # of several addresses of a host, the errors of all in one text
    if isinstance(cause, AddressRefused) or REFUSED in str(cause):
        return _Failed(f"the host is at an address that is {REFUSED}")
    if isinstance(error, aiohttp.InvalidURL):
        return _Failed("no address of a picture")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _Failed("no such host")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return _Failed("no valid certificate")
    if isinstance(error, aiohttp.ClientConnectorError):
        return _Failed("no connection", may_pass=True)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | ConnectionError):
        return _Failed("the connection broke off", may_pass=True)
    return _Failed(f"no valid answer ({type(error).__name__})")
