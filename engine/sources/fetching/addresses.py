"""Network addresses that pictures may come from: public ones, checked where a connection is made, so after every resolution."""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

REFUSED = "not a public address"
_NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """A name stands for an address that no picture may come from."""


def is_public(address: str) -> bool:
    """Whether an IP address is a host of the public internet; an IPv4 address within an IPv6 one is judged itself too."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner: IPv4Address | IPv6Address | None = None
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if found.ipv4_mapped:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast and (inner is None or is_public(str(inner)))


def guarded_sockets(allowed: Sequence[str] = ()) -> Callable[[Any], socket.socket]:
    """A function that makes the socket for one resolved address, and raises AddressRefused if it is not public.

    `allowed`: networks that are let through by name, such as `127.0.0.0/8` for a server on this machine. Since every connection
    passes here with the address that it goes to, a name that resolves to something else the second time gains nothing.
    """
    networks = [ip_network(name) for name in allowed]

    def make(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, where = info
        address = str(where[0])
        if not is_public(address) and not any(ip_address(address.partition("%")[0]) in one for one in networks):
            raise AddressRefused(f"{address} is {REFUSED}")
        return socket.socket(family, kind, protocol)

    return make
