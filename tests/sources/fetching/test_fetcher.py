"""Fetching from a server that is slow, broken, huge, redirects in circles, lies about its type, and is malicious."""

import asyncio
import resource
from collections.abc import Iterator
from hashlib import sha256

import pytest

from engine.sources.fetching.fetcher import Fetched, Fetcher, FetchLimits
from tests.sources.fetching.server import Server, picture, serving

LOOPBACK = ("127.0.0.0/8",)
QUICK = {"seconds_between": 0.0, "retry_seconds": 0.0, "timeout_seconds": 20.0, "allow_networks": LOOPBACK}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def fetch(*urls: str, **limits) -> list[Fetched]:
    async def run() -> list[Fetched]:
        async with Fetcher(FetchLimits(**(QUICK | limits))) as fetcher:
            return await fetcher.fetch_all(urls)

    return asyncio.run(run())


def test_a_picture_comes_with_the_hash_of_its_bytes(server: Server):
    found, other = fetch(server.url("ok/3"), server.url("untyped"), contact="mail@example.org")
    assert found == Fetched(picture(3), sha256(picture(3)).hexdigest())
    assert other.data == picture()
    assert server.agents == {"imagefoundry/1.0 (+mail@example.org)"}


@pytest.mark.parametrize(
    ("path", "reason", "tries"),
    [
        ("status/404", "status 404", 1),
        ("status/410", "status 410", 1),
        ("status/500", "status 500", 3),
        ("status/429", "status 429", 3),
        ("breaks/x", "the connection broke off", 3),
        ("circle/a", "it redirects in a circle", 1),
        ("nowhere/x", "a redirect without an address", 1),
        ("html/x", "its type is text/html, no image", 1),
        ("empty/x", "an empty answer", 1),
        ("gzip/x", "a compressed answer (gzip), which nobody asked for", 1),
        ("huge/announced", "more than 300,000 bytes", 1),
        ("huge/x", "more than 300,000 bytes", 1),
    ],
)
def test_each_fault_has_its_reason_and_only_those_that_may_pass_are_tried_again(
    server: Server, path: str, reason: str, tries: int
):
    (found,) = fetch(server.url(path), max_bytes=300_000)
    assert found == Fetched(reason=reason)
    assert server.requests[path] == tries


@pytest.mark.parametrize("path", ["hangs/at-once", "hangs/midway"])
def test_a_slow_server_is_given_up_after_the_time_limit(server: Server, path: str):
    (found,) = fetch(server.url(path), timeout_seconds=0.3, retries=1)
    assert found.reason == "no answer within 0.3 seconds"
    assert server.requests[path] == 2


def test_an_endless_answer_is_cut_off_and_a_compressed_one_is_never_unpacked(server: Server):
    fetch(server.url("huge/x"), max_bytes=1_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fetch(server.url("gzip/x"))
    assert server.requests["huge bytes"] < 60_000_000  # what the system's buffers take
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 45_000  # kilobytes, while it would be 50 MB twice over


def test_a_failure_that_passes_costs_one_more_try(server: Server):
    assert fetch(server.url("flaky/1"))[0].data == picture()
    assert server.requests["flaky/1"] == 2
    assert fetch(server.url("flaky/3"))[0].reason == "status 503"


def test_redirects_are_followed_up_to_the_limit(server: Server):
    assert fetch(server.url("chain/3"))[0].data == picture(1)
    assert fetch(server.url("chain/4"))[0].reason == "more than 4 redirects"
    assert fetch(server.url("chain/0"), max_redirects=0)[0].reason == "more than 0 redirects"


def test_a_private_address_is_refused_after_resolution_and_after_redirects(server: Server):
    refused = "the host is at an address that is not a public address"
    for host in ("127.0.0.1", "localhost"):
        (found,) = fetch(server.url("ok/1", host), allow_networks=())
        assert found.reason == refused
    assert not server.requests
    inside = server.url("to/x") + "?http://127.0.0.9:1/ok/1"
    assert fetch(inside, allow_networks=("127.0.0.1/32",))[0].reason == refused
    assert server.requests["to/x"] == 1
    for number in ("http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/"):
        assert fetch(server.url("to/x") + f"?{number}", allow_networks=("127.0.0.1/32",))[0].reason == refused
        assert fetch(number, allow_networks=())[0].reason == refused


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.test/1.jpg",
        "file:///etc/passwd",
        "http:///x",
        "http://[::1",
        "http://a.test:99999/",
        "none",
        "http://2130706433/x",
    ],
)
def test_what_is_no_http_address_is_never_asked(url: str):
    assert fetch(url)[0].reason in ("no address of a picture", "robots.txt: no address of a picture")


def test_a_redirect_to_another_scheme_or_with_a_password_is_refused(server: Server):
    assert fetch(server.url("to/x") + "?file:///etc/passwd")[0].reason == "no address of a picture"
    assert fetch(f"http://user:word@127.0.0.1:{server.port}/ok/1")[0].reason == "an address with a password"


def test_robots_txt_is_read_once_per_host_and_obeyed_also_behind_redirects(server: Server):
    server.robots = "User-agent: *\nDisallow: /ok/\nAllow: /ok/7$\nUser-agent: other\nDisallow: /\n"
    urls = [server.url(path) for path in ("ok/1", "ok/2", "ok/7", "chain/0")]
    found = fetch(*urls)
    assert [one.reason for one in found] == ["robots.txt forbids it"] * 2 + ["", "robots.txt forbids it"]
    assert found[2].data == picture(7)
    assert server.requests["robots.txt"] == 1
    assert not server.requests["ok/1"]


def test_a_host_whose_robots_txt_fails_is_left_alone(server: Server):
    server.robots = 503
    assert fetch(server.url("ok/1"))[0].reason == "robots.txt: status 503"
    assert not server.requests["ok/1"]
    server.robots = 403  # there is none for us: everything may be fetched
    assert fetch(server.url("ok/1"))[0].data


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("noai", "X-Robots-Tag: noai"),
        ("all, NoImageAI", "X-Robots-Tag: noimageai"),
        ("imagefoundry: noindex", "X-Robots-Tag: noindex"),
        ("otherbot: noai", ""),
        ("unavailable_after: 25 Jun 2040 15:00:00 PST", ""),
        ("nofollow", ""),
    ],
)
def test_a_picture_whose_site_wants_no_training_is_left_alone(server: Server, tag: str, reason: str):
    assert fetch(server.url(f"tagged/x?tag={tag}"))[0].reason == reason


def test_a_host_gets_no_more_requests_at_once_than_allowed(server: Server):
    fetch(*(server.url(f"ok/{number}") for number in range(40)), per_host=2)
    assert server.most_at_once <= 2
    assert sum(server.requests.values()) == 41


def test_equal_addresses_are_fetched_once(server: Server):
    found = fetch(*[server.url("ok/1")] * 3)
    assert [one.data for one in found] == [picture(1)] * 3
    assert server.requests["ok/1"] == 1


def test_a_dead_host_and_a_name_that_is_none_have_reasons(server: Server):
    assert fetch("http://127.0.0.1:1/x.jpg")[0].reason == "no connection"
    assert fetch("http://none.invalid/x.jpg", retries=0)[0].reason == "no such host"


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"per_host": 0}, "per_host is 0; give more than 0"),
        ({"retries": -1}, "retries is -1; give 0 or more"),
        ({"allow_networks": ("here",)}, "allow_networks: .* give networks such as"),
        ({"agent": "my bot"}, "is no name of a crawler"),
        ({"contact": "a)\r\nX: y"}, "characters that cannot be printed"),
    ],
)
def test_invalid_limits_are_one_sentence(limits: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        Fetcher(FetchLimits(**limits))
