"""The S3 proxy does what the rounds rely on, so that they test something."""

import http.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from benchmarks import chaos_store
from benchmarks.chaos_store import FAULTS, FaultyProxy

ANSWER = b"0123456789"


class Echo(BaseHTTPRequestHandler):
    """Counts requests, and answers each."""

    served = 0

    def do_GET(self) -> None:
        """Ten bytes."""
        Echo.served += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    one = HTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=one.serve_forever, daemon=True).start()
    yield one.server_address[1]
    one.shutdown()
    one.server_close()


def ask(proxy: FaultyProxy, path: str = "/a") -> tuple[int | None, bytes, str | None]:
    """Status, body and date of an answer; no status if the connection was cut."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.getheader("Date")
    except http.client.IncompleteRead as error:
        return 200, error.partial, None
    except (OSError, http.client.HTTPException):
        return None, b"", None
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("fault", "status", "body", "served"),
    [
        ("delay", 200, ANSWER, 1),
        ("cut", None, b"", 0),
        ("cut after", None, b"", 1),
        ("refuse", 503, b"", 0),
        ("fail after", 500, b"", 1),
        ("halve", 200, ANSWER[:5], 1),
    ],
)
def test_each_fault_shows(server, monkeypatch, fault, status, body, served):
    monkeypatch.setattr(chaos_store, "FAULTS", (fault,))
    monkeypatch.setattr(chaos_store, "LONGEST_DELAY", 0.05)
    before = Echo.served
    with FaultyProxy(server, share=1.0) as proxy:
        assert ask(proxy)[:2] == (status, body)
        assert dict(proxy.faults) == {fault: 1}
    assert Echo.served - before == served
    assert fault in FAULTS


def test_without_a_fault_the_answer_comes_through_and_the_locks_clock_is_fast(server):
    with FaultyProxy(server, share=0.0) as proxy:
        assert ask(proxy)[:2] == (200, ANSWER)
        normal, skewed = ask(proxy)[2], ask(proxy, "/w/.lock")[2]
    assert normal is not None
    assert skewed is not None
    from email.utils import parsedate_to_datetime

    ahead = parsedate_to_datetime(skewed) - parsedate_to_datetime(normal)
    assert abs(ahead.total_seconds() - chaos_store.SKEW_SECONDS) < 60
