"""Addresses of nodes as operators write them: `raw:198.51.100.1`, `udp:[2001:db8::1]:2531`."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from anonnet.spec import UDP_PORT
from anonnet.wire.descriptor import Address, Transport

_ADDRESS: Final = re.compile(r"(raw|udp):(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?")
_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})")


def parse_address(text: str) -> Address:
    """Read an address; raise ValueError with the way to write it."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("write raw:198.51.100.1, raw:[2001:db8::1] or udp:198.51.100.1:2531")
    transport, host = Transport[match[1].upper()], ip_address(match[2] or match[3])
    if host.is_unspecified or host.is_multicast:
        raise ValueError("no node can have this address")
    if transport is Transport.RAW:
        if match[4] is not None:
            raise ValueError("the raw transport has no ports: leave the port out")
        return Address(transport, host, 0)
    port = UDP_PORT if match[4] is None else int(match[4])
    if not 1 <= port <= 65535:
        raise ValueError("a port is between 1 and 65535")
    return Address(transport, host, port)


def parse_listen(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Read an address and a port to listen at; raise ValueError with the way to write them."""
    match = _LISTEN.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise ValueError("write 127.0.0.1:1080 or [::1]:1080")
    return ip_address(match[1] or match[2]), int(match[3])


def address_text(address: Address) -> str:
    """Write what `parse_address` reads."""
    host = f"[{address.host}]" if address.host.version == 6 else str(address.host)
    port = f":{address.port}" if address.transport is Transport.UDP else ""
    return f"{address.transport.name.lower()}:{host}{port}"
