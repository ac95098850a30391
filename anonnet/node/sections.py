"""What the configuration file may say: one frozen class for each of its tables.

docs/anonnet.example.toml is the annotated form of what stands here; `node.config` reads it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from anonnet.crypto.suite import SUITE_WEAKNESSES
from anonnet.node.address import parse_address
from anonnet.proto.isolation import MAX_CIRCUITS
from anonnet.spec import IP_PROTOCOL, UDP_PORT
from anonnet.wire.descriptor import Address

FEW_HOPS: Final = 3  # fewer than these protect little: first relay and exit are neighbours, or one node

TransportName = Literal["raw", "udp"]
Port = Annotated[int, Meta(ge=1, le=65535)]
# The kernel's limit for interface names is 15 bytes (IFNAMSIZ less the NUL).
Interface = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", description="write at most 15 of a-z 0-9 _ . -")
]

Devices = Annotated[  # one, or all whose name begins so
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,13}[A-Za-z0-9_.*-]?$", description="write docker0 or v*")
]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; a key that it does not know is an error."""


class NodeSection(_Section, frozen=True):
    """[node]: where this node keeps things, and as whom it runs."""

    name: str = ""
    state_dir: Path = Path("/var/lib/anonnet")
    run_dir: Path = Path("/run/anonnet")
    user: str = "anonnet"
    suite: Literal["anonnet-2026", "anonnet-2003"] = "anonnet-2026"
    family: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class TransportSection(_Section, frozen=True):
    """[transport]: how datagrams leave, and the addresses that invites name."""

    raw: bool = True
    udp: bool = True
    ip_protocol: Annotated[int, Meta(ge=1, le=255)] = IP_PROTOCOL
    udp_port: Port = UDP_PORT
    mark: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = 0x616E
    bind4: IPv4Address = IPv4Address("0.0.0.0")  # noqa: S104  relays listen to everybody
    bind6: IPv6Address = IPv6Address("::")
    addresses: tuple[str, ...] = ()

    @property
    def parsed(self) -> tuple[Address, ...]:
        """`addresses`: where others may reach this node."""
        return tuple(parse_address(text) for text in self.addresses)


class LinksSection(_Section, frozen=True):
    """[links]: what peers get that do not say otherwise."""

    profile: str = "10m"
    interval: Literal["fixed", "randomised"] = "fixed"


class DataPlaneSection(_Section, frozen=True):
    """[data_plane]: how hard the process that keeps the ticks clings to the machine."""

    realtime_priority: Annotated[int, Meta(ge=0, le=99)] = 50  # SCHED_FIFO; 0 = off
    lock_memory: bool = True
    native: Annotated[Literal["auto"] | bool, Meta(description='write "auto", true or false')] = "auto"
    threads: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=64)], Meta(description='write "auto", or 1 to 64')
    ] = "auto"

    @property
    def wants_threads(self) -> int | None:
        """`threads`; None: as many as the links need."""
        return None if self.threads == "auto" else self.threads

    @property
    def wants_native(self) -> bool | None:
        """`native`; None: if it is there."""
        return None if self.native == "auto" else bool(self.native)


class ExitSection(_Section, frozen=True):
    """[exit]: whether this node forwards to the Internet, and what it will not forward."""

    enabled: bool = False
    ipv4: bool = True
    ipv6: bool = True
    tun: Interface = "anonexit0"
    pool4: str = "100.127.0.0/16"
    pool6: str = "fd61:6e6f:6e6e:1::/64"
    resolver: str = "auto"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    connections_per_circuit: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    new_connections_per_second: Annotated[int, Meta(ge=1, le=100_000)] = 100


class CallerSection(_Section, frozen=True):
    """[caller]: what `anonnet-tun up` does on this host."""

    tun: Interface = "anonnet0"
    hops: Annotated[int, Meta(ge=1, le=16)] = 3
    routes: Annotated[int, Meta(ge=1, le=8)] = 2
    redundancy: str = "stripe"
    exit: str = "auto"
    exclude: tuple[str, ...] = ()
    circuits: Annotated[int, Meta(ge=1, le=MAX_CIRCUITS)] = 1
    isolate: Literal["off", "destination", "user"] = "off"
    distinct_exits: Annotated[bool | Literal["auto"], Meta(description='write "auto", true or false')] = (
        "auto"
    )
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of a link's free slots, for the circuit
    lan: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    outside_users: tuple[str, ...] = ()
    forward: tuple[Devices, ...] = ()


class SocksSection(_Section, frozen=True):
    """[socks]: the proxy that `anonnet-tun socks` runs."""

    listen: str = "127.0.0.1:1080"
    open_to: tuple[str, ...] = ()
    tun: Interface = "anonsocks0"
    circuits: Annotated[int, Meta(ge=1, le=MAX_CIRCUITS)] = 1
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 512


class PeerSection(_Section, frozen=True):
    """[[peers]]: a node that this one knows; `link` makes it a neighbour."""

    invite: str
    link: bool = True
    transport: TransportName | None = None
    address: str | None = None
    profile: str | None = None

    @property
    def parsed(self) -> Address | None:
        """`address`: where to reach the peer, whatever its invite says."""
        return None if self.address is None else parse_address(self.address)


class Config(_Section, frozen=True):
    """The whole file, checked."""

    node: NodeSection = NodeSection()
    transport: TransportSection = TransportSection()
    links: LinksSection = LinksSection()
    data_plane: DataPlaneSection = DataPlaneSection()
    exit: ExitSection = ExitSection()
    caller: CallerSection = CallerSection()
    socks: SocksSection = SocksSection()
    peers: tuple[PeerSection, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but should be said at start."""
        found = [f"suite {self.node.suite}: {text}" for text in SUITE_WEAKNESSES[self.node.suite]]
        if self.caller.hops < FEW_HOPS:
            found.append(f"caller.hops = {self.caller.hops}: fewer than {FEW_HOPS} hops protect little")
        if not self.data_plane.realtime_priority:
            found.append("data_plane.realtime_priority = 0: a busy machine will show in the wire's timing")
        return tuple(found)
