"""The load of `benchmarks.serve`, in a process of its own: a plan as JSON on stdin, one line of JSON per answer on stdout.

Every request has a seed that no other has, so that no answer comes from the table unless it is asked to.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

TIMEOUT_SECONDS = 120.0
"""A request without an answer after this time hangs."""
PATIENCE_SECONDS = 60.0
"""Longest `Retry-After` that a refused client waits for; openai's client has the same limit."""
RECENT = 50
"""Answered requests that may be asked again."""


@dataclass
class Plan:
    """What the clients do."""

    url: str
    key: str
    bodies: Sequence[dict[str, Any]]
    """Bodies of requests for an image, without a seed."""
    clients: int
    seconds: float = 0.0
    """How long new requests are sent."""
    requests: int = 0
    """Requests per client, instead of `seconds`."""
    kinds: Sequence[str] = ("generate",)
    """Of each request, drawn at random: generate, cached, retrieve, add, stream, cancel, healthz."""
    shuffled: bool = False
    """Whether each request draws its body; otherwise a client keeps one."""
    pause: float = 0.0
    """Seconds between a client's requests, at most."""
    retries: int = 0
    """How often a request that failed (status 500 or more, or no answer) is sent again, as clients of the API do (openai's: 2)."""
    seed: int = 0


@dataclass
class Answer:
    """The outcome of one request."""

    kind: str
    status: int
    """0 if there was none."""
    at: float
    """When it came, in seconds since the epoch."""
    ms: float
    ids: list[str] = field(default_factory=list)
    is_new: bool = True
    batch_size: int = 0
    code: str = ""
    retried: int = 0
    """How often the request was sent again."""
    retry_after: float = 1.0
    """`Retry-After` of a refused request, in seconds."""


class Clients:
    """All clients of a plan."""

    def __init__(self, plan: Plan, session: aiohttp.ClientSession):
        self._plan, self._session = plan, session
        self._random = random.Random(f"{plan.seed} {time.time_ns()}")
        self._recent: list[dict[str, Any]] = []
        self._end = time.time() + plan.seconds if plan.seconds else float("inf")

    async def run(self) -> None:
        """Prints the answers as they come."""
        await asyncio.gather(*(self._client(number) for number in range(self._plan.clients)))

    async def _client(self, number: int) -> None:
        plan, sent = self._plan, 0
        while time.time() < self._end and (not plan.requests or sent < plan.requests):
            chosen = self._random.randrange(len(plan.bodies)) if plan.shuffled else number % len(plan.bodies)
            body = {**plan.bodies[chosen], "seed": self._random.getrandbits(62)}
            answer = await self._ask(self._random.choice(plan.kinds), body)
            print(json.dumps(asdict(answer)), flush=True)
            sent += 1
            if answer.status == 503:
                await asyncio.sleep(min(answer.retry_after, PATIENCE_SECONDS))
            elif plan.pause:
                await asyncio.sleep(self._random.uniform(0, plan.pause))

    async def _ask(self, kind: str, body: dict[str, Any]) -> Answer:
        if kind == "cached":
            if self._recent:
                body = self._random.choice(self._recent)
            else:
                kind = "generate"
        started = time.perf_counter()
        for retried in range(self._plan.retries + 1):
            answer = Answer(kind, 0, 0.0, 0.0, retried=retried)
            try:
                await getattr(self, f"_{kind}")(body, answer)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                answer.status, answer.code = 0, f"{type(error).__name__}: {error}"[:200]
            if 0 < answer.status < 500:
                break
            if retried < self._plan.retries:
                await asyncio.sleep(0.5 * 2**retried)
        answer.at, answer.ms = time.time(), 1e3 * (time.perf_counter() - started)
        return answer

    async def _generate(self, body: dict[str, Any], answer: Answer) -> None:
        async with self._session.post("/v1/images/generations", json=body) as response:
            found = await self._read(response, answer)
        if answer.status == 200:
            image = found["data"][0]
            answer.ids, answer.is_new, answer.batch_size = [image["image_id"]], image["is_new"], image["batch_size"]
            self._recent = [*self._recent[1 - RECENT :], body]

    _cached = _generate

    async def _peer(self, body: dict[str, Any], answer: Answer) -> None:
        async with self._session.post("/peer/image", json=body) as response:
            answer.batch_size = (await self._read(response, answer)).get("batch_size", 0)

    async def _healthz(self, body: dict[str, Any], answer: Answer) -> None:
        async with self._session.get("/healthz") as response:
            await self._read(response, answer)

    async def _retrieve(self, body: dict[str, Any], answer: Answer) -> None:
        async with self._session.post("/v1/retrieve", json={"text": body["prompt"], "k": 5}) as response:
            await self._read(response, answer)

    async def _add(self, body: dict[str, Any], answer: Answer) -> None:
        form = aiohttp.FormData({"name": "an object of the load"})
        # another picture each time: a comment behind the end of a PNG would leave the pixels, and so the id, the same
        form.add_field("image", bitmap(self._random.randbytes(16 * 16 * 3)), filename="new.bmp")
        async with self._session.post("/v1/images", data=form) as response:
            found = await self._read(response, answer)
        if answer.status == 201:
            answer.ids = [one["image_id"] for one in found["data"]]

    async def _stream(self, body: dict[str, Any], answer: Answer) -> None:
        body = {**body, "stream": True, "partial_images": 1}
        async with self._session.post("/v1/images/generations", json=body) as response:
            text = (await response.read()).decode()
            answer.status = response.status
        completed = [line for line in text.splitlines() if line.startswith("data: {") and '"image_id"' in line]
        if completed:
            answer.ids = [json.loads(completed[0][6:])["image_id"]]
        elif answer.status == 200:
            answer.status, answer.code = 0, f"no image in the stream: {text[:200]}"

    async def _cancel(self, body: dict[str, Any], answer: Answer) -> None:
        try:
            async with asyncio.timeout(self._random.uniform(0.005, 0.1)):
                await self._generate(body, answer)
        except TimeoutError:
            answer.status, answer.code = 499, "cancelled"

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer) -> dict[str, Any]:
        answer.status = response.status
        found: dict[str, Any] = await response.json()
        if answer.status >= 400:
            answer.retry_after = float(response.headers.get("retry-after", answer.retry_after))
            answer.code = str((found.get("error") or {}).get("code"))
        return found


def bitmap(pixels: bytes) -> bytes:
    """A picture of 16 x 16 pixels in Windows' format, which needs no library."""
    head = b"BM" + (54 + len(pixels)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    numbers = ((40, 4), (16, 4), (16, 4), (1, 2), (24, 2), (0, 4), (len(pixels), 4), (0, 4), (0, 4), (0, 4), (0, 4))
    return head + b"".join(value.to_bytes(size, "little") for value, size in numbers) + pixels


async def main() -> None:
    """Runs the plan on stdin."""
    plan = Plan(**json.load(sys.stdin))
    headers = {"authorization": f"Bearer {plan.key}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(plan.url, headers=headers, timeout=timeout, connector=connector) as session:
        await Clients(plan, session).run()


if __name__ == "__main__":
    asyncio.run(main())
