"""Every way out of a host that a program, or a mistake, might take; run inside the host's namespace.

    python -m tests.leaks.probes SCENE     commands on standard input: burst, loop, rest

SCENE is JSON of `Scene`. Each probe bears its number: in its source port, its ICMP identifier, or its payload
after `TOKEN`. After a burst comes a marked datagram to a neighbour, which may pass: when the capture has seen
`MARK_TOKEN` and the burst's number, it has seen the burst.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

TOKEN: Final = b"anonleak"
MARK_TOKEN: Final = b"anonmark"
FIRST_PORT: Final = 20_000
LOOP_SECONDS: Final = 0.2
ANSWER_OF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
PACKET_QDISC_BYPASS: Final = 20  # linux/if_packet.h
MULTICAST: Final = {
    4: ("224.0.0.251", "239.255.255.250", "255.255.255.255"),
    6: ("ff02::fb", "ff05::c", "ff02::1"),
}


class Target(msgspec.Struct, frozen=True):
    """Somewhere to send to: its name in the matrix, and an address of each IP version."""

    name: str
    ipv4: str
    ipv6: str

    def address(self, version: int) -> str:
        """Return the address of that IP version."""
        return self.ipv4 if version == 4 else self.ipv6


class Scene(msgspec.Struct, frozen=True):
    """What a prober must know: its own addresses, whom to write to, and the gateway's hardware address."""

    device: str
    own: Target
    targets: tuple[Target, ...]
    gateway_mac: str
    own_mac: str
    neighbour: str  # of the marked datagrams; "": send none
    mark: int
    kinds: tuple[str, ...]
    first: int = 0  # number of the first probe


class Probe(msgspec.Struct, frozen=True):
    """One row of the matrix."""

    number: int
    kind: str
    target: Target
    version: int

    @property
    def port(self) -> int:
        """The source port that names this probe."""
        return FIRST_PORT + self.number

    @property
    def payload(self) -> bytes:
        """The payload that names this probe."""
        return TOKEN + struct.pack("!H", self.number)

    @property
    def to(self) -> str:
        """Where it goes."""
        return self.target.address(self.version)

    def __str__(self) -> str:
        return f"{self.kind} to {self.target.name} by IPv{self.version}"


def probes(scene: Scene) -> list[Probe]:
    """Return all probes of a scene, numbered; multicast has its own targets."""
    found: list[Probe] = []
    for kind in scene.kinds:
        for version in (4, 6):
            groups = tuple(Target(a, a, a) for a in MULTICAST[version])
            for target in groups if kind == "multicast" else scene.targets:
                found.append(Probe(scene.first + len(found), kind, target, version))
    return found


# -- senders: one for each kind -------------------------------------------------------------------


def _open(probe: Probe, kind: int, protocol: int = 0) -> socket.socket:
    sock = socket.socket(ANSWER_OF[probe.version], kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _tcp(probe: Probe, port: int, device: str = "", source: str = "") -> None:
    with _open(probe, socket.SOCK_STREAM) as sock:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind((source, probe.port))
        with contextlib.suppress(BlockingIOError):  # under way, as it should
            sock.connect((probe.to, port))


def _udp(probe: Probe, port: int, device: str = "", source: str = "", multicast: bool = False) -> None:
    with _open(probe, socket.SOCK_DGRAM) as sock:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind((source, probe.port))
        sock.sendto(probe.payload, (probe.to, port))


def _icmp(probe: Probe) -> None:
    protocol = socket.IPPROTO_ICMP if probe.version == 4 else socket.IPPROTO_ICMPV6
    with _open(probe, socket.SOCK_RAW, protocol) as sock:
        layer = ICMP(id=probe.number) if probe.version == 4 else ICMPv6EchoRequest(id=probe.number)
        sock.sendto(bytes(layer / Raw(probe.payload)), (probe.to, 0))


def _raw(probe: Probe, protocol: int) -> None:
    with _open(probe, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(probe.payload, (probe.to, 0))


def _header_included(probe: Probe) -> None:
    with _open(probe, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        packet = _ip(probe, "203.0.113.99" if probe.version == 4 else "2001:db8::99") / Raw(probe.payload)
        sock.sendto(bytes(packet), (probe.to, 0))


def _ip(probe: Probe, source: str) -> Packet:
    layer = IP if probe.version == 4 else IPv6
    return layer(src=source, dst=probe.to) / UDP(sport=probe.port, dport=4000)


def _frame(scene: Scene, probe: Probe) -> bytes:
    ether = Ether(src=scene.own_mac, dst=scene.gateway_mac)
    return bytes(ether / _ip(probe, scene.own.address(probe.version)) / Raw(probe.payload))


def _syn_frame(scene: Scene, probe: Probe) -> bytes:
    layer = IP if probe.version == 4 else IPv6
    ip = layer(src=scene.own.address(probe.version), dst=probe.to)
    return bytes(
        Ether(src=scene.own_mac, dst=scene.gateway_mac) / ip / TCP(sport=probe.port, dport=53, flags="S")
    )


def _packet(scene: Scene, frame: bytes, bypass: bool) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        if bypass:
            sock.setsockopt(263, PACKET_QDISC_BYPASS, 1)  # SOL_PACKET
        sock.bind((scene.device, 0))
        sock.send(frame)


def _cooked(scene: Scene, probe: Probe) -> None:
    """A packet socket that lets the kernel write the link-layer header."""
    kind = 0x0800 if probe.version == 4 else 0x86DD
    packet = bytes(_ip(probe, scene.own.address(probe.version)) / Raw(probe.payload))
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind)) as sock:
        mac = bytes.fromhex(scene.gateway_mac.replace(":", ""))
        sock.sendto(packet, (scene.device, kind, 0, 0, mac))


def _framed(scene: Scene, probe: Probe) -> Callable[[], None]:
    frame = _frame(scene, probe)
    return lambda: _packet(scene, frame, False)


def _framed_without_qdisc(scene: Scene, probe: Probe) -> Callable[[], None]:
    frame = _syn_frame(scene, probe)
    return lambda: _packet(scene, frame, True)


# Each gives what sends the probe; whatever takes time to build is built before.
SENDERS: Final[dict[str, Callable[[Scene, Probe], Callable[[], None]]]] = {
    "tcp": lambda scene, probe: lambda: _tcp(probe, 443),
    "udp": lambda scene, probe: lambda: _udp(probe, 4000),
    "icmp": lambda scene, probe: lambda: _icmp(probe),
    "raw ip": lambda scene, probe: lambda: _raw(probe, 254),
    # The links' own number, without their mark and not to a neighbour.
    "link protocol": lambda scene, probe: lambda: _raw(probe, 253),
    "header included": lambda scene, probe: lambda: _header_included(probe),
    "dns udp": lambda scene, probe: lambda: _udp(probe, 53),
    "dns tcp": lambda scene, probe: lambda: _tcp(probe, 53),
    "dot": lambda scene, probe: lambda: _tcp(probe, 853),
    "doq": lambda scene, probe: lambda: _udp(probe, 853),
    "bound device tcp": lambda scene, probe: lambda: _tcp(probe, 443, scene.device),
    "bound device udp": lambda scene, probe: lambda: _udp(probe, 4000, scene.device),
    "bound device dns": lambda scene, probe: lambda: _udp(probe, 53, scene.device),
    "bound source": lambda scene, probe: lambda: _udp(probe, 4000, source=scene.own.address(probe.version)),
    "multicast": lambda scene, probe: lambda: _udp(probe, 5353, scene.device, multicast=True),
    "packet socket": _framed,
    "packet, no qdisc": _framed_without_qdisc,
    "packet, cooked": lambda scene, probe: lambda: _cooked(scene, probe),
}
KINDS: Final = tuple(SENDERS)


def _mark(scene: Scene, burst: int) -> None:
    if scene.neighbour:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 253) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, scene.mark)
            sock.sendto(MARK_TOKEN + struct.pack("!I", burst), (scene.neighbour, 0))


def _commands() -> Iterator[str]:
    """Yield each command as it comes, and `tick` again and again between `loop` and `rest`."""
    buffer, looping = b"", False
    while True:
        if not select.select([0], [], [], LOOP_SECONDS if looping else None)[0]:
            yield "tick"
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            command = line.decode()
            looping = command == "loop" if command in ("loop", "rest") else looping
            yield command


def main() -> None:
    """At every command, send all probes and answer with the number of the burst."""
    scene = msgspec.json.decode(sys.argv[1], type=Scene)
    senders = [SENDERS[probe.kind](scene, probe) for probe in probes(scene)]
    print("ready", flush=True)
    for burst, command in enumerate(_commands(), start=1):
        for send in senders:
            with contextlib.suppress(OSError):  # refused: that is what the firewall is for
                send()
        with contextlib.suppress(OSError):
            _mark(scene, burst)
        if command != "tick":
            print(burst, flush=True)


if __name__ == "__main__":
    main()
