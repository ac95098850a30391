"""Rewriting, judged by scapy: the result must be what scapy builds with the other address from the start."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment, in4_chksum
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    in6_chksum,
)
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from anonnet.proto.engine import NATIVE, PYTHON
from anonnet.proto.rewrite import Rewriter, destination
from anonnet.spec import INNER4_CALLER, INNER6_CALLER

POOL4, POOL6 = "100.64.3.7", "fd61:6e6f:6e6f::307"
PEER4, PEER6 = "203.0.113.9", "2001:db8::9"


class Both:
    """Rewrites with each engine; they must do the same."""

    def __init__(self) -> None:
        pools = IPv4Address(POOL4).packed, IPv6Address(POOL6).packed
        self._rewriters = [
            Rewriter(*pools, engine.rewrite) for engine in (PYTHON, NATIVE) if engine is not None
        ]

    def outward(self, packet: bytearray) -> bool:
        return self._each(packet, Rewriter.outward)

    def inward(self, packet: bytearray) -> bool:
        return self._each(packet, Rewriter.inward)

    def _each(self, packet: bytearray, change: Callable[[Rewriter, bytearray], bool]) -> bool:
        copies = [bytearray(packet) for _ in self._rewriters]
        answers = {change(one, copy) for one, copy in zip(self._rewriters, copies, strict=True)}
        assert all(copy == copies[0] for copy in copies)
        packet[:] = copies[0]
        (answer,) = answers
        return answer


REWRITER = Both()

Built = Callable[[str, str], Packet]  # from (source, destination)


def with_checksum(header: bytes, at: int, protocol: int, payload: bytes) -> Callable[[Packet], Raw]:
    """A transport that scapy does not know, with its checksum over the pseudo-header put at `at`."""

    def build(ip: Packet) -> Raw:
        data = header + payload
        total = in6_chksum(protocol, ip, data) if isinstance(ip, IPv6) else in4_chksum(protocol, ip, data)
        return Raw(data[:at] + total.to_bytes(2, "big") + data[at + 2 :])

    return build


def other(protocol: int, header: bytes, at: int, payload: bytes) -> Built:
    def build(source: str, target: str) -> Packet:
        if ":" in source:
            ip = IPv6(src=source, dst=target, nh=protocol)
        else:
            ip = IP(src=source, dst=target, proto=protocol)
        return ip / with_checksum(header, at, protocol, payload)(ip)

    return build


def ip4(*layers: Any, **fields: Any) -> Built:
    return lambda source, target: _stack(IP(src=source, dst=target, **fields), layers)


def ip6(*layers: Any, **fields: Any) -> Built:
    return lambda source, target: _stack(IPv6(src=source, dst=target, **fields), layers)


def error4(about: Built, cut: int | None = None, **fields: Any) -> Built:
    """An ICMP error; the packet it is about went from its destination to its source."""

    def build(source: str, target: str) -> Packet:
        embedded = bytes(about(target, source))[:cut]
        return IP(src=source, dst=target) / ICMP(**fields) / Raw(embedded)

    return build


def error6(about: Built, kind: Any, cut: int | None = None) -> Built:
    def build(source: str, target: str) -> Packet:
        embedded = bytes(about(target, source))[:cut]
        return IPv6(src=source, dst=target) / kind / Raw(embedded)

    return build


def piece(build: Built, index: int) -> Built:
    return lambda source, target: fragment(build(source, target), fragsize=64)[index]


def _stack(packet: Packet, layers: tuple[Any, ...]) -> Packet:
    for layer in layers:
        packet = packet / layer
    return packet


DATA = Raw(b"odd payload bytes")
DCCP_HEADER = bytes.fromhex("1234 0050 04 00 0000 04000000 00000001")
UDP_LITE_HEADER = bytes.fromhex("1234 0050 0019 0000")
CASES4: dict[str, Built] = {
    "tcp4": ip4(TCP(sport=1, dport=80, options=[("MSS", 1460)]), DATA),
    "udp4": ip4(UDP(sport=1, dport=53), DATA),
    "udp4 without checksum": ip4(UDP(sport=1, dport=53, chksum=0), DATA),
    "icmp4 echo": ip4(ICMP(id=7, seq=1), DATA),
    "sctp4": ip4(SCTP(sport=1, dport=2), SCTPChunkData(data=b"x")),
    "dccp4": other(33, DCCP_HEADER, 6, b"data"),
    "udp-lite4": other(136, UDP_LITE_HEADER, 6, b"odd payload bytes"),
    "gre4": ip4(DATA, proto=47),
    "unknown protocol 4": ip4(DATA, proto=253),
    "no payload 4": ip4(proto=0),
    "options 4": ip4(TCP(), DATA, options=[IPOption_Router_Alert()]),
    "first fragment 4": piece(ip4(UDP(sport=1, dport=2), Raw(bytes(range(200)))), 0),
    "later fragment 4": piece(ip4(UDP(sport=1, dport=2), Raw(bytes(range(200)))), 1),
    "unreachable 4 about udp": error4(ip4(UDP(sport=5, dport=6), DATA), type=3, code=3),
    "unreachable 4 about udp, 8 bytes": error4(ip4(UDP(sport=5, dport=6), DATA), cut=28, type=3, code=3),
    "unreachable 4 about udp without checksum": error4(ip4(UDP(chksum=0), DATA), type=3, code=3),
    "fragmentation needed 4 about tcp": error4(ip4(TCP(), DATA), type=3, code=4, nexthopmtu=1400),
    "fragmentation needed 4 about tcp, 8 bytes": error4(ip4(TCP(), DATA), cut=28, type=3, code=4),
    "time exceeded 4 about echo": error4(ip4(ICMP(), DATA), type=11),
    "time exceeded 4 about options": error4(ip4(TCP(), options=[IPOption_Router_Alert()]), type=11),
    "time exceeded 4 about a later fragment": error4(piece(ip4(UDP(), Raw(bytes(200))), 1), type=11),
    "unreachable 4 about sctp": error4(ip4(SCTP(), SCTPChunkData(data=b"x")), type=3, code=2),
}
CASES6: dict[str, Built] = {
    "tcp6": ip6(TCP(sport=1, dport=80), DATA),
    "udp6": ip6(UDP(sport=1, dport=53), DATA),
    "echo6": ip6(ICMPv6EchoRequest(id=3, data=b"ping!")),
    "sctp6": ip6(SCTP(sport=1, dport=2), SCTPChunkData(data=b"x")),
    "dccp6": other(33, DCCP_HEADER, 6, b"data"),
    "udp-lite6": other(136, UDP_LITE_HEADER, 6, b"odd payload bytes"),
    "no next header": ip6(nh=59),
    "unknown protocol 6": ip6(DATA, nh=253),
    "extension headers": ip6(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), TCP(), DATA),
    "routing header, no segments left": ip6(IPv6ExtHdrRouting(addresses=[PEER6], segleft=0), UDP(), DATA),
    "atomic fragment": ip6(IPv6ExtHdrFragment(id=9), UDP(), DATA),
    "first fragment 6": ip6(IPv6ExtHdrFragment(id=9, m=1), UDP(), DATA),
    "later fragment 6": ip6(IPv6ExtHdrFragment(id=9, offset=20, nh=17), DATA),
    "unreachable 6 about udp": error6(ip6(UDP(), DATA), ICMPv6DestUnreach(code=4)),
    "too big 6 about tcp": error6(ip6(TCP(), DATA), ICMPv6PacketTooBig(mtu=1280)),
    "too big 6 about tcp, cut": error6(ip6(TCP(), DATA), ICMPv6PacketTooBig(mtu=1280), cut=52),
    "time exceeded 6 about echo": error6(ip6(ICMPv6EchoReply(data=b"x")), ICMPv6TimeExceeded()),
    "time exceeded 6 about sctp": error6(ip6(SCTP(), SCTPChunkData(data=b"x")), ICMPv6TimeExceeded()),
    "unreachable 6 about extension headers": error6(
        ip6(IPv6ExtHdrDestOpt(), UDP(), DATA), ICMPv6DestUnreach(code=1)
    ),
    "unreachable 6 about a later fragment": error6(
        ip6(IPv6ExtHdrFragment(offset=20, nh=17), DATA), ICMPv6DestUnreach(code=1)
    ),
}


CASES = CASES4 | CASES6
ENDS4, ENDS6 = (INNER4_CALLER, POOL4, PEER4), (INNER6_CALLER, POOL6, PEER6)


def addresses(name: str) -> tuple[str, str, str]:
    """Inner, pool and peer address for a case."""
    return ENDS4 if name in CASES4 else ENDS6


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("make", [bytearray, lambda raw: memoryview(bytearray(raw))], ids=["array", "view"])
def test_outward(name: str, make: Callable[[bytes], bytearray]) -> None:
    inner, pool, peer = addresses(name)
    packet = make(bytes(CASES[name](inner, peer)))
    assert REWRITER.outward(packet)
    assert packet == bytes(CASES[name](pool, peer))


@pytest.mark.parametrize("name", CASES)
def test_inward(name: str) -> None:
    inner, pool, peer = addresses(name)
    packet = bytearray(bytes(CASES[name](peer, pool)))
    assert destination(packet) == packed(pool)
    assert REWRITER.inward(packet)
    assert packet == bytes(CASES[name](peer, inner))
    assert destination(packet) == packed(inner)


@pytest.mark.parametrize("name", CASES)
def test_spoofed_or_stray_addresses_are_refused(name: str) -> None:
    inner, pool, peer = addresses(name)
    for refuse, source, target in [(REWRITER.outward, peer, inner), (REWRITER.inward, pool, peer)]:
        packet = bytearray(bytes(CASES[name](source, target)))
        before = bytes(packet)
        assert not refuse(packet)
        assert packet == before


@pytest.mark.parametrize("name", CASES)
def test_truncated_packets_are_refused_unchanged(name: str) -> None:
    inner, _, peer = addresses(name)
    whole = bytes(CASES[name](inner, peer))
    for size in range(len(whole)):
        packet = bytearray(whole[:size])
        assert not REWRITER.outward(packet)
        assert packet == whole[:size]


@pytest.mark.parametrize("name", [name for name in CASES if "about" in name])
def test_errors_about_somebody_else_are_refused(name: str) -> None:
    inner, pool, peer = addresses(name)
    raw = bytearray(bytes(CASES[name](inner, peer)))
    at, width = (20 + 8 + 16, 4) if len(packed(inner)) == 4 else (40 + 8 + 24, 16)
    assert raw[at : at + width] == packed(inner)
    raw[at : at + width] = packed(pool)
    before = bytes(raw)
    assert not REWRITER.outward(raw)
    assert raw == before


REFUSED = {
    "empty": b"",
    "version 5": bytes([0x55]) + bytes(39),
    "routing header with segments left": bytes(
        IPv6(src=INNER6_CALLER, dst=PEER6) / IPv6ExtHdrRouting(addresses=[PEER6], segleft=1) / UDP()
    ),
    "header length 4": bytes([0x44]) + bytes(IP(src=INNER4_CALLER, dst=PEER4) / UDP())[1:],
    "trailing byte 4": bytes(IP(src=INNER4_CALLER, dst=PEER4) / UDP()) + b"x",
    "trailing byte 6": bytes(IPv6(src=INNER6_CALLER, dst=PEER6) / UDP()) + b"x",
    "first fragment without its checksum": bytes(
        IP(src=INNER4_CALLER, dst=PEER4, flags="MF", proto=6) / Raw(bytes(8))
    ),
    "error without a packet": bytes(IP(src=INNER4_CALLER, dst=PEER4) / ICMP(type=3) / Raw(bytes(19))),
    "error about nonsense": bytes(IPv6(src=INNER6_CALLER, dst=PEER6) / ICMPv6DestUnreach() / Raw(bytes(60))),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes) -> None:
    packet = bytearray(raw)
    assert not REWRITER.outward(packet)
    assert packet == raw


WORD = st.integers(0, 0xFFFF)
ADDRESS4 = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
ADDRESS6 = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))


@given(ADDRESS4, ADDRESS4, WORD, WORD, st.binary(max_size=40), st.sampled_from([TCP, UDP]))
def test_any_ipv4(pool: str, peer: str, sport: int, dport: int, data: bytes, kind: type[Packet]) -> None:
    rewriter = Rewriter(packed(pool), packed(POOL6))
    build = ip4(kind(sport=sport, dport=dport), Raw(data))
    packet = bytearray(bytes(build(INNER4_CALLER, peer)))
    assert rewriter.outward(packet)
    assert packet == bytes(build(pool, peer))
    assert checksum(bytes(packet[:20])) == 0


@given(ADDRESS6, ADDRESS6, WORD, st.binary(max_size=40), st.sampled_from([TCP, UDP]))
def test_any_ipv6(pool: str, peer: str, sport: int, data: bytes, kind: type[Packet]) -> None:
    rewriter = Rewriter(packed(POOL4), packed(pool))
    build = ip6(kind(sport=sport), Raw(data))
    packet = bytearray(bytes(build(peer, pool)))
    assert rewriter.inward(packet)
    assert packet == bytes(build(peer, INNER6_CALLER))


UDP4, UDP6 = ip4(UDP(), Raw(b"..")), ip6(UDP(), Raw(b".."))


@pytest.mark.parametrize(("build", "ends"), [(UDP4, ENDS4), (UDP6, ENDS6)], ids=["4", "6"])
def test_a_udp_checksum_that_comes_to_zero_is_sent_as_ones(build: Built, ends: tuple[str, str, str]) -> None:
    inner, pool, peer = ends
    data = _ending_in_zero(build, pool, peer)
    packet = bytearray(bytes(_with_data(build, inner, peer, data)))
    assert REWRITER.outward(packet)
    assert packet[-4:-2] == b"\xff\xff"
    assert packet == bytes(_with_data(build, pool, peer, data))


def _with_data(build: Built, source: str, target: str, data: int) -> Packet:
    packet = build(source, target)
    packet[Raw].load = data.to_bytes(2, "big")
    return packet


def _ending_in_zero(build: Built, source: str, target: str) -> int:
    """Payload with which the checksum comes to 0: the checksum of the packet whose payload is 0."""
    raw = bytes(_with_data(build, source, target, 0))
    return int.from_bytes(raw[-4:-2], "big")


@given(st.binary(max_size=120), st.sampled_from([4, 6]), st.booleans())
def test_hostile_packets_never_raise(tail: bytes, version: int, outward: bool) -> None:
    if version == 4:
        head = bytes(IP(src=INNER4_CALLER, dst=POOL4, proto=1, len=20 + len(tail)))
    else:
        head = bytes(IPv6(src=INNER6_CALLER, dst=POOL6, nh=tail[0] if tail else 0, plen=len(tail)))
    packet = bytearray(head + tail)
    before = bytes(packet)
    if not (REWRITER.outward if outward else REWRITER.inward)(packet):
        assert packet == before


@given(st.binary(max_size=60))
def test_destination_of_anything(raw: bytes) -> None:
    found = destination(raw)
    assert found is None or found in raw


def packed(address: str) -> bytes:
    return (IPv6Address if ":" in address else IPv4Address)(address).packed
