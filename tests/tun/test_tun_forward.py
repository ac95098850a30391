"""Containers and virtual machines behind the host: into the tunnel if their devices are named, else nowhere.

nest (10.77.0.2, fd77::2) ---- nest0, host, eth0 ---- outside
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import msgspec
import pytest
from tun_namespaces import HOST, Wire, drain, inside, ip, sh, udp
from tun_ups import quiet_tun

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.net.tunfile import TunFile
from anonnet.proto.rewrite import U16
from anonnet.tun.device import delete_tun
from anonnet.tun.host import UpSettings, gather_facts
from anonnet.tun.upplan import OWNER

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

NEST = f"antest-nest-{os.getpid()}"
SERVER = {4: "198.51.100.7", 6: "2001:db8::7"}
INNER = {4: spec.INNER4_CALLER, 6: spec.INNER6_CALLER}
RESOLVER = {4: spec.INNER4_EXIT, 6: spec.INNER6_EXIT}
EXPEDITED = 46 << 2
UDP = 17


@pytest.fixture(autouse=True)
def nest(hosts: None) -> Iterator[None]:
    sh("ip", "netns", "add", NEST)
    try:
        ip(HOST, f"link add nest0 type veth peer name eth0 netns {NEST}")
        for name, device, number in ((HOST, "nest0", 1), (NEST, "eth0", 2)):
            ip(name, "link set lo up")
            ip(name, f"addr add 10.77.0.{number}/24 dev {device}")
            ip(name, f"addr add fd77::{number}/64 dev {device} nodad")
            ip(name, f"link set {device} up")
        for gateway in ("10.77.0.1", "fd77::1"):
            ip(NEST, f"route add default via {gateway}")
        inside(HOST, lambda: sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"))
        yield
    finally:
        sh("ip", "netns", "del", NEST)


def ask(version: int, port: int = 9) -> None:
    """A datagram from the nest."""

    def send() -> None:
        with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            if version == 4:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED)
            else:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED)
            sender.bind(("", 5000 + version))
            sender.sendto(b"from the nest", (SERVER[version], port))

    inside(NEST, send)


def datagrams(fd: int) -> list[bytes]:
    return [p for p in drain(fd) if (p[9] if p[0] >> 4 == 4 else p[6]) == UDP]


def forwarded(fd: int) -> bytes:
    """The one datagram that comes into the tunnel: the kernel may take a moment to forward it."""
    while not (found := datagrams(fd)):
        assert select.select([fd], [], [], 5)[0], "nothing came"
    (packet,) = found
    return packet


def ends(packet: bytes) -> tuple[str, str]:
    """Source and destination."""
    if packet[0] >> 4 == 4:
        return socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return socket.inet_ntop(socket.AF_INET6, packet[8:24]), socket.inet_ntop(socket.AF_INET6, packet[24:40])


def answer(packet: bytes) -> bytearray:
    """The packet with its ends exchanged; sums over addresses and ports stay what they are."""
    at, size, ports = (12, 4, 20) if packet[0] >> 4 == 4 else (8, 16, 40)
    between = packet[at + 2 * size : ports]
    source, destination = packet[at : at + size], packet[at + size : at + 2 * size]
    own, other = packet[ports : ports + 2], packet[ports + 2 : ports + 4]
    return bytearray(packet[:at] + destination + source + between + other + own + packet[ports + 4 :])


def came(cable: socket.socket) -> bytes:
    """The next datagram of these tests that the host hands to the nest."""
    while True:
        packet, where = cable.recvfrom(2000)
        if where[2] == socket.PACKET_OUTGOING and b"from the nest" in packet:
            return packet


@pytest.mark.parametrize("device", ["nest0", "nest*"])
@pytest.mark.parametrize("version", [4, 6])
def test_who_is_named_goes_into_the_tunnel_and_is_answered(
    settings: UpSettings, version: int, device: str
) -> None:
    def scenario() -> None:
        wire = Wire()
        with quiet_tun(msgspec.structs.replace(settings, forward=(device,))) as fd:
            with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as cable:
                cable.bind(("nest0", 3))
                ask(version)
                packet = forwarded(fd)
                assert ends(packet) == (INNER[version], SERVER[version])
                assert U16.unpack_from(packet, 0)[0] >> (2 if version == 4 else 6) & 63 == 0  # no class
                TunFile(fd).write(answer(packet))
                cable.settimeout(5)
                assert ends(came(cable)) == (SERVER[version], {4: "10.77.0.2", 6: "fd77::2"}[version])

                stranger, port = answer(packet), 20 if version == 4 else 40
                stranger[port + 1] ^= 1  # from a port that nobody asked
                TunFile(fd).write(stranger)
                TunFile(fd).write(answer(packet))
                assert came(cable)[port : port + 2] == answer(packet)[port : port + 2]
            ask(version, 53)
            packet = forwarded(fd)
            assert ends(packet) == (INNER[version], RESOLVER[version])
            delete_tun("anonnet0", OWNER)  # as when the daemon dies
            ask(version)
            ask(version, 53)
            assert wire.packets() == []

    inside(HOST, scenario)


@pytest.mark.parametrize("version", [4, 6])
def test_who_is_not_named_goes_nowhere(settings: UpSettings, version: int) -> None:
    def scenario() -> None:
        wire = Wire()
        ask(version)
        assert len(wire.packets()) == 1  # the control: this host does forward
        with quiet_tun(msgspec.structs.replace(settings, forward=("other0",))) as fd:
            ask(version)
            ask(version, 53)
            assert wire.packets() == []
            assert datagrams(fd) == []
            udp(b"of this host", SERVER[version], 9)
            assert len(datagrams(fd)) == 1

    inside(HOST, scenario)


def test_the_way_to_the_internet_is_no_device_of_our_own(settings: UpSettings) -> None:
    def scenario() -> None:
        for devices in (("eth0",), ("e*",), ("nest0", "eth*")):
            with pytest.raises(OperatorError, match="the way to the Internet is by eth0"):
                gather_facts(msgspec.structs.replace(settings, forward=devices))

    inside(HOST, scenario)
