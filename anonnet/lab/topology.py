r"""Who is in the lab, at which address, and who is whose neighbour. Pure: the same options, the same lab.

    caller ---- r1 ---- r2 ---- x1 ~~~ web        links between columns; ~~~ is plain Internet
           \        \/      /
            \       /\     /
             -- r3 ---- r4            4 relays, 1 exit, 3 hops: two routes that share no relay

Relays stand in hops - 1 columns, dealt in turn. Every node sits in an address block of its own (IPv4 /16,
IPv6 /32), since no two relays of a route may share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from typing import Final

import msgspec

from anonnet.crypto.suite import DEFAULT_SUITE, load_suite
from anonnet.errors import OperatorError
from anonnet.lab.place import CALLER, WEB
from anonnet.proto.profile import parse_profile

NODES4: Final = IPv4Network("100.64.0.0/10")  # RFC 6598; node i is in 100.(64+i).0.0/16
NODES6: Final = IPv6Network("3fff::/20")  # RFC 9637; node i is in 3fff:i::/32
WEB4: Final = IPv4Network("203.0.113.0/24")  # RFC 5737
WEB6: Final = IPv6Network("2001:db8:cafe::/64")  # RFC 3849
MAX_NODES: Final = 63  # what 100.64.0.0/10 holds in /16s, less one
ENTRIES: Final = 3  # neighbours of the caller, at most
FAN_OUT: Final = 2  # neighbours of a relay in the next column, at most, unless told otherwise


class Role(StrEnum):
    """What a host is in the lab."""

    CALLER = "caller"
    RELAY = "relay"
    EXIT = "exit"
    WEB = "web"


class Host(msgspec.Struct, frozen=True):
    """One host: its outer interface is `eth0`, its default gateway the router `core`."""

    name: str
    role: Role
    index: int  # of a node: its address block; of web: -1

    @property
    def net4(self) -> IPv4Network:
        """Return the IPv4 subnet that it shares with the router alone."""
        if self.role is Role.WEB:
            return WEB4
        return IPv4Network((int(NODES4.network_address) + (self.index << 16), 24))

    @property
    def net6(self) -> IPv6Network:
        """Return the IPv6 subnet that it shares with the router alone."""
        if self.role is Role.WEB:
            return WEB6
        return IPv6Network((int(NODES6.network_address) + (self.index << 96), 64))

    @property
    def ipv4(self) -> IPv4Address:
        """Return its own address; the router's is one less."""
        return self.net4[2]

    @property
    def ipv6(self) -> IPv6Address:
        """Return its own address; the router's is one less."""
        return self.net6[2]


class Link(msgspec.Struct, frozen=True):
    """Two neighbours, by name; `a` stands nearer to the caller."""

    a: str
    b: str


class Topology(msgspec.Struct, frozen=True):
    """A whole lab. `hops` counts the relays and the exit of a route; links run over IP version `ip`."""

    hosts: tuple[Host, ...]
    links: tuple[Link, ...]
    hops: int
    rate: str
    transport: str
    ip: int = 4
    suite: str = DEFAULT_SUITE

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Return the hosts that run AnonNet, the caller first."""
        return tuple(host for host in self.hosts if host.role is not Role.WEB)

    @property
    def web(self) -> Host:
        """Return the Internet host."""
        return self.host(WEB)

    def host(self, name: str) -> Host:
        """Return the host of that name; OperatorError if there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.hosts)
        raise OperatorError(f"the lab has no host {name!r}", f"its hosts are {names} and core")

    def neighbours(self, name: str) -> tuple[str, ...]:
        """Return the names of the nodes with which `name` keeps a link."""
        return tuple(link.b if link.a == name else link.a for link in self.links if name in (link.a, link.b))

    def routes(self) -> Iterator[tuple[str, ...]]:
        """Yield every route of `hops` hops from the caller to an exit, without the caller itself."""
        exits = {host.name for host in self.nodes if host.role is Role.EXIT}

        def walk(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
            for name in self.neighbours(path[-1]):
                if name in path or (name in exits) != (len(path) == self.hops):
                    continue
                if name in exits:
                    yield (*path[1:], name)
                else:
                    yield from walk((*path, name))

        return walk((CALLER,))


def build(
    *,
    relays: int = 4,
    exits: int = 1,
    hops: int = 3,
    rate: str = "10m",
    transport: str = "raw",
    chain: bool = False,
    fan_out: int = FAN_OUT,
    ip: int = 4,
    suite: str = DEFAULT_SUITE,
) -> Topology:
    """Lay out a lab; OperatorError for too few relays, too many nodes or an unknown rate.

    `chain` keeps only caller - r1 - r2 .. - x1, for measurements: no node has an idle link. A `fan_out` (of
    a relay, in the next column, at most) of 1 does the same for several routes side by side.
    """
    parse_profile(rate)
    load_suite(suite)  # complain now if this host lacks its libraries
    if chain:
        relays, exits = hops - 1, 1
    if hops < 1 or exits < 1 or relays < hops - 1:
        raise OperatorError(
            f"{relays} relays and {exits} exits make no route of {hops} hops",
            f"a route of {hops} hops needs {max(hops - 1, 0)} relays (--relays) and an exit (--exits)",
        )
    if 1 + relays + exits > MAX_NODES:
        raise OperatorError(f"{relays} relays and {exits} exits", f"a lab holds {MAX_NODES} nodes at most")
    names = [CALLER, *(f"r{i}" for i in range(1, relays + 1)), *(f"x{i}" for i in range(1, exits + 1))]
    roles = [Role.CALLER, *[Role.RELAY] * relays, *[Role.EXIT] * exits]
    nodes = [Host(name, role, i) for i, (name, role) in enumerate(zip(names, roles, strict=True))]
    columns = [names[1 + k : 1 + relays : hops - 1] for k in range(hops - 1)] + [names[1 + relays :]]
    links = [Link(CALLER, name) for name in columns[0][:ENTRIES]]
    for here, there in pairwise(columns):
        links += _join(here, there, fan_out)
    return Topology((*nodes, Host(WEB, Role.WEB, -1)), tuple(links), hops, rate, transport, ip, suite)


def _join(here: Sequence[str], there: Sequence[str], fan_out: int) -> list[Link]:
    """Link each node of a column with `fan_out` of the next, so that none of the next is left out."""
    pairs: set[tuple[int, int]] = set()
    for i in range(max(len(here), len(there))):
        for step in range(min(fan_out, len(there))):
            pairs.add((i % len(here), (i + step) % len(there)))
    return [Link(here[i], there[j]) for i, j in sorted(pairs)]
