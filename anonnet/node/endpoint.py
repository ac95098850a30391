"""Transport addresses as operators write them: `raw:198.51.100.1`, `udp:[2001:db8::1]:2531`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

from anonnet.spec import UDP_PORT

Transport = Literal["raw", "udp"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A transport address; `port` is 0 for raw, which has none."""

    transport: Transport
    host: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        return f"{self.transport}:{host}" + (f":{self.port}" if self.port else "")


_ENDPOINT: Final = re.compile(r"(raw|udp):(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?")


def parse_endpoint(text: str) -> Endpoint:
    """Read `raw:198.51.100.1`, `udp:[2001:db8::1]:2531`; raise ValueError with the reason."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ValueError("write raw:198.51.100.1, raw:[2001:db8::1] or udp:198.51.100.1:2531")
    host = ip_address(match[2] or match[3])
    if match[1] == "raw":
        if match[4] is not None:
            raise ValueError("the raw transport has no ports: leave the port out")
        return Endpoint("raw", host, 0)
    port = UDP_PORT if match[4] is None else int(match[4])
    if not 1 <= port <= 65535:
        raise ValueError("a port is between 1 and 65535")
    return Endpoint("udp", host, port)
