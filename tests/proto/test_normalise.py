"""Normalisation: what leaves the caller's host, judged by scapy."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_RR, in4_chksum
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, in6_chksum
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from anonnet.proto.normalise import Normaliser
from anonnet.spec import INNER4_CALLER, INNER6_CALLER

PEER4, PEER6 = "203.0.113.9", "2001:db8::9"
GATE = Normaliser(random.Random(1).randbytes)
BYTE, WORD = st.integers(0, 255), st.integers(0, 0xFFFF)


def out4(layer: Packet, **fields: Any) -> bytearray:
    return bytearray(bytes(IP(**{"src": INNER4_CALLER, "dst": PEER4, **fields}) / layer))


def out6(layer: Packet, **fields: Any) -> bytearray:
    return bytearray(bytes(IPv6(**{"src": INNER6_CALLER, "dst": PEER6, **fields}) / layer))


def sums_right(raw: bytes | bytearray) -> bool:
    """Whether the IPv4 header's checksum and TCP's, if there is one, are correct."""
    packet = (IP if raw[0] >> 4 == 4 else IPv6)(bytes(raw))
    if isinstance(packet, IPv6):
        return packet.nh != 6 or in6_chksum(6, packet, bytes(raw[40:])) == 0
    header_right = checksum(bytes(raw[:20])) == 0
    return header_right and (packet.proto != 6 or in4_chksum(6, packet, bytes(raw[20:])) == 0)


@given(WORD, BYTE, st.integers(0, 7), st.integers(0, 0x1FFF), BYTE, BYTE, st.binary(max_size=30))
def test_ipv4_header(ident: int, tos: int, flags: int, frag: int, ttl: int, proto: int, data: bytes) -> None:
    if proto == 6:  # TCP has its own tests
        proto = 47
    packet = out4(Raw(data), id=ident, tos=tos, flags=flags, frag=frag, ttl=ttl, proto=proto)
    assert GATE.outward(packet)
    assert packet[20:] == data
    header = IP(bytes(packet[:20]))
    assert sums_right(packet)
    assert (header.tos, header.frag, header.proto, header.dst) == (0, frag, proto, PEER4)
    assert int(header.flags) == flags & 3
    assert header.ttl == (ttl if ttl <= 32 else 64)
    atomic = flags & 2 and not flags & 1 and not frag
    assert (header.id == 0) if atomic else (header.id == GATE._permuted(ident))


def test_ids_stay_unique() -> None:
    assert len({GATE._permuted(ident) for ident in range(0x10000)}) == 0x10000


def test_ids_of_two_runs_differ() -> None:
    again = Normaliser(random.Random(2).randbytes)
    assert sum(GATE._permuted(n) == again._permuted(n) for n in range(1000)) < 10


@given(BYTE, st.integers(0, 0xFFFFF), BYTE, st.binary(max_size=30))
def test_ipv6_header(traffic_class: int, label: int, hops: int, data: bytes) -> None:
    packet = out6(UDP() / Raw(data), tc=traffic_class, fl=label, hlim=hops)
    assert GATE.outward(packet)
    assert packet == out6(UDP() / Raw(data), tc=0, fl=0, hlim=hops if hops <= 32 else 64)


@pytest.mark.parametrize(("hops", "after"), [(1, 1), (32, 32), (33, 64), (255, 64)])
def test_hop_limits_at_the_edge(hops: int, after: int) -> None:
    four, six = out4(UDP(), ttl=hops), out6(UDP(), hlim=hops)
    assert GATE.outward(four)
    assert GATE.outward(six)
    assert (four[8], six[7]) == (after, after)


LINUX_SYN = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (123456, 0)), ("NOP", None), ("WScale", 7)]
LINUX_SYN_AFTER = [("MSS", 1460), ("SAckOK", b""), *[("NOP", None)] * 11, ("WScale", 7)]


@pytest.mark.parametrize("out", [out4, out6])
@pytest.mark.parametrize("flags", ["S", "SA", "SEC", "SAE", "SECN"])
def test_syn_offers_only_what_everybody_offers(out: Any, flags: str) -> None:
    packet = out(TCP(flags=flags, options=LINUX_SYN, sport=1))
    assert GATE.outward(packet)
    tcp = (IP if out is out4 else IPv6)(bytes(packet))[TCP]
    assert tcp.options == LINUX_SYN_AFTER
    assert str(tcp.flags) == ("SA" if "A" in flags else "S")
    assert sums_right(packet)


@pytest.mark.parametrize("option", [34, 30, 19, 253, 254, 77])
def test_cookies_and_unknown_options_go(option: int) -> None:
    packet = out4(TCP(flags="S", options=[(option, b"cookie")]) / Raw(b"data"))
    assert GATE.outward(packet)
    assert b"cookie" not in packet
    assert packet.endswith(b"data")
    assert sums_right(packet)


def test_bytes_behind_the_end_of_options_go() -> None:
    packet = out4(TCP(flags="S", options=[("MSS", 1460), ("EOL", None), (77, b"hide")]))
    assert GATE.outward(packet)
    assert b"hide" not in packet
    assert sums_right(packet)


def test_syn_behind_extension_headers_is_cleaned() -> None:
    packet = out6(IPv6ExtHdrDestOpt() / TCP(flags="S", options=LINUX_SYN))
    assert GATE.outward(packet)
    assert IPv6(bytes(packet))[TCP].options == LINUX_SYN_AFTER


@given(st.binary(max_size=60))
def test_segments_without_syn_are_left_alone(data: bytes) -> None:
    packet = out4(TCP(flags="PA", options=[("NOP", None), ("Timestamp", (1, 2))]) / Raw(data), ttl=64)
    before = bytes(packet)
    assert GATE.outward(packet)
    assert packet[20:] == before[20:]


@given(st.binary(max_size=40), st.sampled_from([out4, out6]), st.sampled_from([4, 6]))
def test_any_syn_options_give_a_correct_checksum_or_a_drop(options: bytes, out: Any, words: int) -> None:
    tcp = TCP(flags="S", dataofs=5 + (len(options) + 3) // 4)
    packet = out(tcp / Raw(options.ljust((len(options) + 3) // 4 * 4, b"\0")))
    before = bytes(packet)
    if GATE.outward(packet):
        assert sums_right(packet)
    else:
        assert packet == before


REFUSED = {
    "empty": b"",
    "version 5": bytes([0x55]) + bytes(60),
    "the LAN's address 4": bytes(out4(UDP(), src="192.168.1.5")),
    "the LAN's address 6": bytes(out6(UDP(), src="fe80::1")),
    "record route": bytes(out4(UDP(), options=[IPOption_RR(routers=["0.0.0.0"])])),
    "cut off 4": bytes(out4(UDP()))[:-1],
    "cut off 6": bytes(out6(UDP()))[:-1],
    "short header 4": bytes(out4(UDP()))[:19],
    "short header 6": bytes(out6(UDP()))[:39],
    "TCP cut off": bytes(out4(Raw(bytes(19)), proto=6)),
    "option of length 0": bytes(out4(TCP(flags="S", dataofs=6) / Raw(b"\x4d\0\0\0"))),
    "option cut off": bytes(out4(TCP(flags="S", dataofs=6) / Raw(b"\1\1\1\x4d"))),
    "options beyond the packet": bytes(out4(TCP(flags="S", dataofs=15))),
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_refused_unchanged(raw: bytes) -> None:
    packet = bytearray(raw)
    assert not GATE.outward(packet)
    assert packet == raw


@given(st.binary(max_size=100), st.sampled_from([b"", bytes(out4(Raw(b"")))[:20], bytes(out6(Raw(b"")))]))
def test_hostile_packets_never_raise(tail: bytes, head: bytes) -> None:
    GATE.outward(bytearray(head + tail))
    GATE.inward(bytearray(head + tail))


def test_inward_admits_only_the_inner_address() -> None:
    assert GATE.inward(bytearray(bytes(IP(src=PEER4, dst=INNER4_CALLER) / UDP())))
    assert GATE.inward(bytearray(bytes(IPv6(src=PEER6, dst=INNER6_CALLER) / UDP())))
    assert not GATE.inward(bytearray(bytes(IP(src=PEER4, dst="192.168.1.5") / UDP())))
    assert not GATE.inward(bytearray(bytes(IPv6(src=PEER6, dst="fe80::1") / UDP())))
    assert not GATE.inward(bytearray())
