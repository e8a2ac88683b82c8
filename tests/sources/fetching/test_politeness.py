"""Public addresses, robots.txt by its RFC, and the turns of hosts on a clock that the test turns."""

import asyncio

import pytest

from engine.sources.fetching.addresses import AddressRefused, guarded_sockets, is_public
from engine.sources.fetching.hosts import Hosts
from engine.sources.fetching.robots import Robots


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:db8::1",
        "name",
    ],
)
def test_addresses_that_are_not(address: str):
    assert not is_public(address)


def test_a_network_is_let_through_by_name_alone():
    import socket

    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))
    guarded_sockets(("127.0.0.0/8",))(info).close()
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1 is not a public address"):
        guarded_sockets()(info)
    with pytest.raises(AddressRefused):
        guarded_sockets(("10.0.0.0/8", "::1/128"))(info)


RULES = """
# a comment
User-Agent: imagefoundry   # ours
User-agent: friend
Disallow: /private
Allow: /private/but/this
Disallow: /*.gif$
Disallow: /a**b
Disallow:

User-agent: *
Disallow: /
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", True),
        ("/private/x.jpg", False),
        ("/private/but/this.jpg", True),
        ("/x.gif", False),
        ("/x.gif?y", True),
        ("/a/1/b/2.jpg", False),
        ("/%70rivate", False),
    ],
)
def test_the_longest_rule_of_the_own_group_decides(path: str, allowed: bool):
    assert Robots(RULES, "imagefoundry").allows(path) == allowed
    assert not Robots(RULES, "somebody").allows(path)
    assert Robots("", "imagefoundry").allows(path)


def test_hostile_patterns_take_no_time():
    rules = Robots("User-agent: *\nDisallow: /" + "*a" * 12 + "*b$\n", "x")
    assert rules.allows("/" + "a" * 60)


def test_requests_to_a_host_begin_with_a_pause_between_them_and_hosts_do_not_wait_for_each_other():
    now, begins = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def visit(hosts: Hosts, host: str) -> None:
        async with hosts.turn(host):
            begins.append((host, now))

    async def run() -> None:
        hosts = Hosts(1, 2.0, clock=lambda: now, sleep=sleep)
        for host in ("a", "a", "b", "a"):
            await visit(hosts, host)
        hosts.wait("a", 30)
        await visit(hosts, "a")

    asyncio.run(run())
    assert begins == [("a", 0.0), ("a", 2.0), ("b", 2.0), ("a", 4.0), ("a", 34.0)]
