"""The exit's NAT and policy: `host` of tun_namespaces is the exit, `outside` the Internet."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroute2 import netns
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw
from tun_namespaces import HOST, OUTSIDE, Wire, inside, interrupted, sh, snapshot, udp

from anonnet.errors import OperatorError
from anonnet.net.tunfile import TunFile
from anonnet.tun.apply import Session, apply_all
from anonnet.tun.exit import ExitSettings, gather_exit_facts, plan_exit
from anonnet.tun.firewall import link_table
from anonnet.tun.journal import Journal

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("hosts")]

WEB4, WEB6 = "198.51.100.7", "2001:db8::7"  # on the Internet
ONE, TWO, ONE6 = "100.127.0.5", "100.127.0.6", "fd61:6e6f:6e6e:1::5"  # circuits
NAT_PORTS = range(32768, 61000)
STEPS = 12


def start(directory: Path, settings: ExitSettings) -> Session:
    journal = Journal(directory / "run", directory / "state", "node")
    return apply_all(
        journal,
        lambda: [link_table([253], [2531], settings.tun), *plan_exit(settings, gather_exit_facts(settings))],
    )


class Circuits:
    """What the data plane does: writes callers' packets to the exit's TUN, and reads what comes back."""

    def __init__(self, fd: int) -> None:
        self._tun = TunFile(fd)
        self._came: list[bytearray] = []

    def send(self, packet: Packet) -> None:
        self._tun.write(bytearray(bytes(packet)))

    def receive(self) -> Packet:
        while True:
            if not self._came:
                assert select.select([self._tun.fd], [], [], 5)[0], "nothing came back"
                self._came = self._tun.read()
            data = bytes(self._came.pop(0))
            packet = (IP if data[0] >> 4 == 4 else IPv6)(data)
            if packet.dst != "ff02::16":  # the kernel's own listener reports come when they please
                return packet

    def answers(self, packet: Packet) -> list[Packet]:
        """Send a packet; return what the exit itself answers: all that precedes the answer to an echo."""
        self.send(packet)
        self.send(IP(src=TWO, dst="192.0.0.1") / ICMP(id=4242))
        found: list[Packet] = []
        while True:
            answer = self.receive()
            if ICMP in answer and answer[ICMP].id == 4242:
                return found
            found.append(answer)


@contextlib.contextmanager
def running(directory: Path, settings: ExitSettings) -> Iterator[Circuits]:
    session = start(directory, settings)
    try:
        assert session.tun is not None
        yield Circuits(session.tun.fd)
    finally:
        session.undo()


def server(address: str, port: int, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    netns.setns(OUTSIDE)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    listener.bind((address, port))
    listener.settimeout(5)
    if kind == socket.SOCK_STREAM:
        listener.listen()
    netns.setns(HOST)
    return listener


@pytest.fixture
def settings() -> ExitSettings:
    return ExitSettings(resolvers=("10.9.0.1", "fd09::1"))


# -- restoring ------------------------------------------------------------------------------------


def test_stopping_restores_the_host(tmp_path: Path, settings: ExitSettings) -> None:
    before = snapshot(HOST)

    def scenario() -> None:
        with running(tmp_path, settings):
            pass

    inside(HOST, scenario)
    assert snapshot(HOST) == before


def test_values_that_differ_between_devices_come_back(tmp_path: Path, settings: ExitSettings) -> None:
    def scenario() -> None:
        Path("/proc/sys/net/ipv6/conf/eth0/forwarding").write_text("1")
        Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("1")

    inside(HOST, scenario)
    test_stopping_restores_the_host(tmp_path, settings)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(STEPS))
def test_interrupted_anywhere_all_is_restored(
    tmp_path: Path, settings: ExitSettings, number: int, after: bool
) -> None:
    def fail() -> None:
        raise OperatorError("injected", "none")

    before = snapshot(HOST)

    def failing() -> None:
        with interrupted(number, after, fail), pytest.raises(OperatorError, match="injected"):
            start(tmp_path, settings)

    def killed() -> None:
        with interrupted(number, after, lambda: os._exit(9)):
            start(tmp_path, settings)

    def new_process() -> None:
        Session(Journal(tmp_path / "run", tmp_path / "state", "node")).undo()

    inside(HOST, failing)
    assert snapshot(HOST) == before
    inside(HOST, killed)
    inside(HOST, new_process)
    assert snapshot(HOST) == before


# -- what circuits reach --------------------------------------------------------------------------


@pytest.mark.parametrize("port", [5000, 2531], ids=["any", "as-our-links"])
def test_udp_there_and_back(tmp_path: Path, settings: ExitSettings, port: int) -> None:
    """Also from a port that our links use, whose datagrams are not tracked outside of the tunnel."""

    def scenario() -> None:
        with running(tmp_path, settings) as circuits:
            for web, circuit, layer, seen_as in ((WEB4, ONE, IP, "10.9.0.2"), (WEB6, ONE6, IPv6, "fd09::2")):
                listener = server(web, 7000)
                circuits.send(layer(src=circuit, dst=web) / UDP(sport=port, dport=7000) / Raw(b"question"))
                data, sender = listener.recvfrom(100)
                assert (data, sender[0]) == (b"question", seen_as)
                assert sender[1] in NAT_PORTS
                listener.sendto(b"answer", sender)
                answer = circuits.receive()
                assert (answer.src, answer.dst, answer[UDP].dport) == (web, circuit, port)
                assert bytes(answer[UDP].payload) == b"answer"

    inside(HOST, scenario)


def test_tcp_and_its_segment_size_on_a_narrow_uplink(tmp_path: Path, settings: ExitSettings) -> None:
    def scenario() -> None:
        sh("ip", "link", "set", "eth0", "mtu", "1400")
        listener = server(WEB4, 80, socket.SOCK_STREAM)
        with running(tmp_path, settings) as circuits:
            circuits.send(
                IP(src=ONE, dst=WEB4) / TCP(sport=5000, dport=80, flags="S", seq=7, options=[("MSS", 1460)])
            )
            syn_ack = circuits.receive()
            assert syn_ack[TCP].flags == "SA"
            assert dict(syn_ack[TCP].options)["MSS"] == 1360
            circuits.send(
                IP(src=ONE, dst=WEB4) / TCP(sport=5000, dport=80, flags="A", seq=8, ack=syn_ack[TCP].seq + 1)
            )
            connection, (seen_as, _) = listener.accept()
            assert seen_as == "10.9.0.2"
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1360

    inside(HOST, scenario)


def test_ping_there_and_back(tmp_path: Path, settings: ExitSettings) -> None:
    def scenario() -> None:
        with running(tmp_path, settings) as circuits:
            circuits.send(IP(src=ONE, dst=WEB4) / ICMP(id=7))
            answer = circuits.receive()
            assert (answer.src, answer.dst, answer[ICMP].type) == (WEB4, ONE, 0)
            circuits.send(IPv6(src=ONE6, dst=WEB6) / ICMPv6EchoRequest(id=7))
            answer = circuits.receive()
            assert (answer.src, answer.dst) == (WEB6, ONE6)
            circuits.send(IPv6(src=ONE6, dst="fd61:6e6f:6e6e::1") / ICMPv6EchoRequest(id=7))
            assert circuits.receive().src == "fd61:6e6f:6e6e::1"

    inside(HOST, scenario)


REFUSED: list[tuple[str, Callable[[], Packet]]] = [
    ("private", lambda: IP(src=ONE, dst="10.9.0.1") / UDP(dport=80)),
    ("metadata", lambda: IP(src=ONE, dst="169.254.169.254") / TCP(dport=80)),
    ("carrier", lambda: IP(src=ONE, dst="100.64.1.1") / UDP(dport=80)),
    ("mail", lambda: IP(src=ONE, dst=WEB4) / TCP(dport=25)),
    ("mail6", lambda: IPv6(src=ONE6, dst=WEB6) / TCP(dport=25)),
    ("local6", lambda: IPv6(src=ONE6, dst="fd09::1") / UDP(dport=80)),
    ("nat64", lambda: IPv6(src=ONE6, dst="64:ff9b::a09:1") / UDP(dport=80)),
]
IGNORED: list[tuple[str, Callable[[], Packet]]] = [
    ("forged", lambda: IP(src="10.9.0.77", dst=WEB4) / UDP(dport=80)),
    ("forged6", lambda: IPv6(src="fd09::77", dst=WEB6) / UDP(dport=80)),
    ("circuit", lambda: IP(src=ONE, dst=TWO) / UDP(dport=80)),
    ("links", lambda: IP(src=ONE, dst=WEB4, proto=253) / Raw(b"datagram")),
    ("service", lambda: IP(src=ONE, dst="10.9.0.2") / TCP(dport=22)),
    ("inner-service", lambda: IP(src=ONE, dst="192.0.0.1") / TCP(dport=22)),
    ("multicast", lambda: IP(src=ONE, dst="224.0.0.251") / UDP(dport=5353)),
    ("loopback", lambda: IP(src=ONE, dst="127.0.0.1") / UDP(dport=80)),
]


@pytest.mark.parametrize("packet", [p for _, p in REFUSED], ids=[name for name, _ in REFUSED])
def test_refused_by_policy(tmp_path: Path, settings: ExitSettings, packet: Callable[[], Packet]) -> None:
    def scenario() -> None:
        wire = Wire()
        sh("ip", "-6", "route", "add", "64:ff9b::/96", "via", "fd09::1")
        with running(tmp_path, settings) as circuits:
            (answer,) = circuits.answers(packet())
            code = answer[ICMP].code if ICMP in answer else answer[IPv6].payload.code
            assert code == (13 if ICMP in answer else 1)  # RFC 1812, RFC 4443: administratively prohibited
            assert wire.packets() == []

    inside(HOST, scenario)


@pytest.mark.parametrize("packet", [p for _, p in IGNORED], ids=[name for name, _ in IGNORED])
def test_dropped_by_policy(tmp_path: Path, settings: ExitSettings, packet: Callable[[], Packet]) -> None:
    def scenario() -> None:
        wire = Wire()
        with running(tmp_path, settings) as circuits:
            assert circuits.answers(packet()) == []
            assert wire.packets() == []

    inside(HOST, scenario)


def test_allowed_ranges_beat_denied_ones(tmp_path: Path) -> None:
    settings = ExitSettings(resolvers=("10.9.0.1",), allow=("10.9.0.1/32",))

    def scenario() -> None:
        listener = server("10.9.0.1", 7000)
        with running(tmp_path, settings) as circuits:
            circuits.send(IP(src=ONE, dst="10.9.0.1") / UDP(sport=5000, dport=7000) / Raw(b"hello"))
            assert listener.recv(100) == b"hello"

    inside(HOST, scenario)


def test_queries_go_to_the_real_resolver(tmp_path: Path, settings: ExitSettings) -> None:
    def scenario() -> None:
        with running(tmp_path, settings) as circuits:
            for inner, real, circuit, layer in (
                ("192.0.0.1", "10.9.0.1", ONE, IP),
                ("fd61:6e6f:6e6e::1", "fd09::1", ONE6, IPv6),
            ):
                resolver = server(real, 53)
                circuits.send(layer(src=circuit, dst=inner) / UDP(sport=5000, dport=53) / Raw(b"web.lab?"))
                query, sender = resolver.recvfrom(100)
                assert query == b"web.lab?"
                resolver.sendto(b"here", sender)
                answer = circuits.receive()
                assert (answer.src, answer.dst, answer[UDP].sport) == (inner, circuit, 53)

    inside(HOST, scenario)


def test_nobody_outside_opens_connections_to_a_circuit(tmp_path: Path, settings: ExitSettings) -> None:
    def scenario() -> None:
        listener = server(WEB4, 7000)
        with running(tmp_path, settings) as circuits:
            circuits.send(IP(src=ONE, dst=WEB4) / UDP(sport=5000, dport=7000) / Raw(b"question"))
            _, sender = listener.recvfrom(100)
            netns.setns(OUTSIDE)
            sh("ip", "route", "add", "100.127.0.0/16", "via", "10.9.0.2")
            udp(b"knock", ONE, 5000)
            netns.setns(HOST)
            listener.sendto(b"answer", sender)
            assert bytes(circuits.receive()[UDP].payload) == b"answer"

    inside(HOST, scenario)


@pytest.mark.parametrize(
    "limits",
    [{"connections_per_circuit": 3}, {"new_per_second": 1, "new_burst": 3}],
    ids=["connections", "rate"],
)
def test_one_circuit_cannot_take_all(tmp_path: Path, limits: dict[str, int]) -> None:
    settings = ExitSettings(resolvers=("10.9.0.1",), **limits)

    def scenario() -> None:
        wire = Wire()
        with running(tmp_path, settings) as circuits:
            for port in range(5000, 5010):
                circuits.send(IP(src=ONE, dst=WEB4) / UDP(sport=port, dport=7000))
            assert 3 <= len(wire.packets()) <= 4
            circuits.send(IP(src=TWO, dst=WEB4) / UDP(sport=5000, dport=7000))
            assert len(wire.packets()) == 1

    inside(HOST, scenario)


def test_without_a_resolver_it_says_so(tmp_path: Path) -> None:
    def scenario() -> None:
        from anonnet.tun import dns  # noqa: PLC0415

        dns.RESOLV_CONF = dns.RESOLVED_CONF = tmp_path / "none"
        with pytest.raises(OperatorError, match="no IPv4 resolver"):
            gather_exit_facts(ExitSettings())

    inside(HOST, scenario)
