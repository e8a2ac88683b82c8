"""Names of the linear probe's protocols, in a file of their own so that a configuration is checked without torch."""

from typing import Literal, TypeAlias, get_args

from engine.names import unknown_name

ProbeProtocol: TypeAlias = Literal["validation", "paper"]
PROTOCOLS: tuple[str, ...] = get_args(ProbeProtocol)


def check_protocol(protocol: str) -> None:
    """Raises ValueError for a protocol that is not one of PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(unknown_name("probe protocol", protocol, PROTOCOLS))
