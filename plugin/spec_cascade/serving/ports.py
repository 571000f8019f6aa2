"""TCP ports for the server."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Below the range from which Linux takes the ports of outgoing connections: one of those could otherwise take a port
# between the moment it was found free and the moment the server, its models loaded, listens on it.
_FREE_RANGE = range(20000, 32768)
_ATTEMPTS = 200


def resolve_ports(hosts: Mapping[str, str], wanted: Mapping[str, int]) -> dict[str, int]:
    """Give each name a port that nobody listens on; 0 takes any.

    Args:
        hosts: Address to listen on by the name of the port's option.
        wanted: Port by the name of its option.

    Raises:
        ConfigError: A port is taken, given twice or out of range; the option is named.
    """
    ports: dict[str, int] = {}
    for name, port in wanted.items():
        if not 0 <= port < 2**16:
            raise ConfigError(name, port, "a port in [0, 65535]; 0 takes a free one")
        if port and port in ports.values():
            raise ConfigError(name, port, "a port of its own: another option names it too")
        if port and not _is_free(hosts[name], port):
            raise ConfigError(name, port, f"a free port: another process listens on {hosts[name]}:{port}")
        ports[name] = port
    for name, port in ports.items():
        if not port:
            ports[name] = _free_port(name, hosts[name], taken=set(ports.values()))
    return ports


def _free_port(name: str, host: str, taken: set[int]) -> int:
    # Not for secrets: a random start only keeps servers that start together apart.
    for port in random.sample(_FREE_RANGE, _ATTEMPTS):
        if port not in taken and _is_free(host, port):
            return port
    raise ConfigError(f"host of {name}", host, "an address of this machine with a free port")


def _is_free(host: str, port: int) -> bool:
    """Whether the server could listen there; a port that lingers in TIME_WAIT counts as free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True
