"""What passes while up, and what does not: see tun_namespaces for the topology."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import msgspec
import pytest
from pyroute2 import netns
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils6 import in6_getnsma
from tun_namespaces import HOST, OUTSIDE, Wire, drain, give, inside, raw, sh, udp
from tun_probes import probes
from tun_ups import raised, up_and_die

from anonnet.tun import host
from anonnet.tun.host import UpSettings
from anonnet.tun.routing import MARK

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]


def test_the_probes_reach_the_wire_when_nothing_is_up(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        for number, probe in enumerate(probes(wire.mac)):
            probe()
            assert wire.packets(), number

    inside(HOST, scenario)


def test_nothing_but_links_reaches_the_wire(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        with raised(settings) as tun:
            for number, probe in enumerate(probes(wire.mac)):
                with contextlib.suppress(OSError):
                    probe()
                assert wire.packets() == [], number
            raw(b"link", "fd09::1", MARK)
            assert [packet[40:] for packet in wire.packets()] == [b"link"]
            sources = {packet[12:16] if packet[0] >> 4 == 4 else packet[8:24] for packet in drain(tun.fd)}
        # What the exit sees: never the host's own address.
        assert sources == {
            socket.inet_aton("192.0.0.2"),
            socket.inet_pton(socket.AF_INET6, "fd61:6e6f:6e6e::2"),
        }

    inside(HOST, scenario)


def test_nothing_leaks_when_the_daemon_dies(settings: UpSettings) -> None:
    def scenario() -> None:
        wire = Wire()
        up_and_die(settings)
        for number, probe in enumerate(probes(wire.mac)):
            with contextlib.suppress(OSError):
                probe()
            assert wire.packets() == [], number
        host.down(settings)
        udp(b"probe", "198.51.100.7", 4000)
        assert wire.packets()

    inside(HOST, scenario)


def test_routes_of_the_main_table_do_not_win(settings: UpSettings) -> None:
    """TunnelVision: more specific routes, as DHCP option 121 hands out, before and after `up`."""

    def scenario() -> None:
        wire = Wire()
        sh("ip", "route", "add", "198.51.100.0/25", "via", "10.9.0.1")
        with raised(settings) as tun:
            sh("ip", "route", "add", "198.51.100.7/32", "via", "10.9.0.1")
            udp(b"probe", "198.51.100.7", 4000)
            assert [packet[28:] for packet in drain(tun.fd)] == [b"probe"]
            assert wire.packets() == []

    inside(HOST, scenario)


def test_lan_ranges_stay_outside_but_not_their_dns(settings: UpSettings) -> None:
    lan = msgspec.structs.replace(settings, lan=("10.9.0.0/24", "fd09::/64"))

    def scenario() -> None:
        wire = Wire()
        with raised(lan) as tun:
            udp(b"probe4", "10.9.0.1", 4000)
            udp(b"probe6", "fd09::1", 4000)
            with pytest.raises(PermissionError):
                udp(b"query", "10.9.0.1", 53)
            assert {packet[-6:] for packet in wire.packets()} == {b"probe4", b"probe6"}
            assert drain(tun.fd) == []

    inside(HOST, scenario)


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_neighbours_arrive_and_no_others(settings: UpSettings, version: int) -> None:
    """Over a reverse-path filter that was strict; and the host still answers ARP and its IPv6 twin."""
    family, ours, other = {
        4: (socket.AF_INET, "10.9.0.2", "198.51.100.7"),
        6: (socket.AF_INET6, "fd09::2", "2001:db8::7"),
    }[version]

    def scenario() -> None:
        listener = socket.socket(family, socket.SOCK_RAW, 253)
        listener.settimeout(5)
        netns.setns(OUTSIDE)
        neighbour, stranger = (socket.socket(family, socket.SOCK_RAW, 253) for _ in range(2))
        stranger.bind((other, 0))
        netns.setns(HOST)
        with raised(settings):
            stranger.sendto(b"stranger", (ours, 0))
            neighbour.sendto(b"neighbour", (ours, 0))
            assert listener.recv(100).endswith(b"neighbour")

    inside(HOST, scenario)


def test_the_host_finds_its_neighbours_on_the_wire(settings: UpSettings) -> None:
    def scenario() -> None:
        netns.setns(OUTSIDE)
        listeners = [
            socket.socket(family, socket.SOCK_RAW, 253) for family in (socket.AF_INET, socket.AF_INET6)
        ]
        netns.setns(HOST)
        with raised(settings):
            for listener, address in zip(listeners, ("10.9.0.1", "fd09::1"), strict=True):
                sh("ip", "neigh", "del", address, "dev", "eth0")
                listener.settimeout(5)
                raw(b"hello", address, MARK)
                assert listener.recv(100).endswith(b"hello")

    inside(HOST, scenario)


@pytest.mark.parametrize(("inner", "gateway"), [("192.0.0.2", "10.9.0.2"), ("fd61:6e6f:6e6e::2", "fd09::2")])
def test_the_wire_cannot_probe_the_inner_address(settings: UpSettings, inner: str, gateway: str) -> None:
    """CVE-2019-14899: with a reverse-path filter that lets it in, and a listener that would answer."""

    def scenario() -> None:
        with raised(settings):
            Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("0")
            family = socket.AF_INET6 if ":" in inner else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_DGRAM)
            listener.bind((inner, 7000))
            listener.settimeout(5)
            netns.setns(OUTSIDE)
            sh("ip", "route", "add", inner, "via", gateway)
            attacker = socket.socket(family, socket.SOCK_DGRAM)
            attacker.sendto(b"guess", (inner, 7000))
            netns.setns(HOST)
            udp(b"own", inner, 7000)
            assert listener.recv(100) == b"own"
            if family == socket.AF_INET:
                # The control: without our rule, the guess arrives.
                sh("nft", "flush", "chain", "inet", "anonnet", "anti_probe")
                sh("nft", "insert", "rule", "inet", "anonnet", "input", "udp", "dport", "7000", "accept")
                attacker.sendto(b"guess", (inner, 7000))
                assert listener.recv(100) == b"guess"
            Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("1")

    inside(HOST, scenario)


def test_the_wire_cannot_ask_for_the_inner_address(settings: UpSettings) -> None:
    """Linux answers ARP for any address that the host has, on whichever device, unless it is kept from it."""

    def answered(question: Packet, wanted: str) -> bool:
        netns.setns(OUTSIDE)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
            sock.bind(("eth0", 0))
            sock.settimeout(2)
            mac = sock.getsockname()[4]
            netns.setns(HOST)
            sock.send(bytes(Ether(src=mac) / question))
            with contextlib.suppress(TimeoutError):
                while True:
                    frame, address = sock.recvfrom(2048)
                    reply = Ether(frame)
                    if address[2] == socket.PACKET_OUTGOING:
                        continue
                    if ARP in reply and reply[ARP].op == 2 and reply[ARP].psrc == wanted:
                        return True
                    if ICMPv6ND_NA in reply and reply[ICMPv6ND_NA].tgt == wanted:
                        return True
        return False

    def arp(wanted: str) -> bool:
        return answered(ARP(op=1, psrc="10.9.0.1", pdst=wanted), wanted)

    def solicited(wanted: str) -> bool:
        group = socket.inet_ntop(socket.AF_INET6, in6_getnsma(socket.inet_pton(socket.AF_INET6, wanted)))
        ip = IPv6(src="fd09::1", dst=group, hlim=255)
        return answered(
            ip / ICMPv6ND_NS(tgt=wanted) / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:09"), wanted
        )

    def scenario() -> None:
        with raised(settings):
            assert arp("10.9.0.2")
            assert solicited("fd09::2")
            assert not arp("192.0.0.2")
            assert not solicited("fd61:6e6f:6e6e::2")
            sh("nft", "delete", "table", "arp", "anonnet")
            assert arp("192.0.0.2")  # the control

    inside(HOST, scenario)


def test_the_exit_cannot_open_connections_to_this_host(settings: UpSettings) -> None:
    def scenario() -> None:
        with raised(settings) as tun:
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener.bind(("192.0.0.2", 7000))
            listener.connect(("198.51.100.7", 9))
            listener.settimeout(5)
            source, inner = socket.inet_aton("198.51.100.7"), socket.inet_aton("192.0.0.2")
            other = socket.inet_aton("198.51.100.8")
            listener.send(b"question")
            drain(tun.fd)
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stranger.bind(("192.0.0.2", 7001))
            stranger.setblocking(False)
            give(tun.fd, _udp_packet(other, inner, 9, 7001, b"knock"))
            give(tun.fd, _udp_packet(source, inner, 9, 7000, b"answer"))
            assert listener.recv(100) == b"answer"
            with pytest.raises(BlockingIOError):
                stranger.recv(100)

    inside(HOST, scenario)


def _udp_packet(source: bytes, to: bytes, sport: int, dport: int, data: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0, source, to)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


@pytest.mark.parametrize(
    ("server", "ports"), [("10.9.0.1", (68, 67)), ("fd09::1", (546, 547))], ids=["IPv4", "IPv6"]
)
def test_a_lease_is_renewed_past_the_tunnel(
    settings: UpSettings, server: str, ports: tuple[int, int]
) -> None:
    """dhclient asks its server by unicast, from a socket that no device binds (RFC 2131, 4.3.2)."""

    def ask(to: str, source: int, destination: int) -> None:
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("", source))
            client.sendto(b"renew", (to, destination))

    def scenario() -> None:
        wire = Wire()
        with raised(settings) as tun:
            ask(server, *ports)
            assert [packet[-5:] for packet in wire.packets()] == [b"renew"]
            with contextlib.suppress(OSError):
                ask(server, ports[0] + 1, ports[1])  # from no client's port: into the tunnel
            assert wire.packets() == []
            assert [packet[-13:-11] for packet in drain(tun.fd) if packet.endswith(b"renew")] == [
                struct.pack("!H", ports[0] + 1)
            ]

    inside(HOST, scenario)
