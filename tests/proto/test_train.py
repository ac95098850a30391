"""Trains, judged by scapy: what is cut, joined or coupled must be the segments that scapy builds."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.rewrite import Rewriter
from anonnet.proto.train import couple, cut, segment_of, sound, tcp_at
from anonnet.spec import INNER4_CALLER, INNER6_CALLER, MAX_TRAIN, SEGMENT_LEAST, TUN_MTU

PEERS = {4: ("203.0.113.9", INNER4_CALLER), 6: ("2001:db8::9", INNER6_CALLER)}
VERSIONS = st.sampled_from([4, 6])
OPTIONS = st.sampled_from([[], [("NOP", None), ("NOP", None), ("SAck", (1, 2))]])
SEGMENTS = st.integers(SEGMENT_LEAST, 1400)


def ip(version: int, **fields: Any) -> Packet:
    source, target = PEERS[version]
    if version == 4:
        return IP(src=source, dst=target, flags="DF", id=0, **fields)
    return IPv6(src=source, dst=target, **fields)


def segments(
    version: int, payload: bytes, size: int, seq: int, options: Any = (), last: str = "PA"
) -> list[bytes]:
    """What a kernel would send of so much payload, one packet each."""
    starts = range(0, len(payload), size)
    return [
        bytes(ip(version) / TCP(sport=443, dport=4000, seq=(seq + at) % 2**32, ack=77, window=500,
                                options=list(options), flags="A" if at + size < len(payload) else last)
              / Raw(payload[at : at + size]))
        for at in starts
    ]  # fmt: skip


def large(
    version: int, payload: bytes, seq: int, options: Any = (), flags: str = "PA", **fields: Any
) -> bytearray:
    """The same as one packet, as a kernel hands it to a device that cuts."""
    built = ip(version, **fields) / TCP(sport=443, dport=4000, seq=seq, ack=77, window=500,
                                        options=list(options), flags=flags) / Raw(payload)  # fmt: skip
    return bytearray(bytes(built))


def payload_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def train(version: int = 4, size: int = 5000, segment: int = 1400, **fields: Any) -> bytearray:
    made = large(version, payload_of(1, size), 9, **fields)
    assert couple(made, segment)
    return made


@given(
    VERSIONS, st.integers(1, 60_000), SEGMENTS, st.integers(0, 2**32 - 1), OPTIONS, st.integers(0, MAX_TRAIN)
)
def test_a_train_is_cut_into_the_segments_it_was_made_of(
    version: int, size: int, segment: int, seq: int, options: Any, limit: int
) -> None:
    payload = payload_of(size, size)
    whole = large(version, payload, seq, options)
    if len(whole) > TUN_MTU and size > segment:
        assert couple(whole, segment)
    pieces = cut(whole, segment, limit)
    assert all(len(piece) <= max(limit, TUN_MTU) for piece in pieces)
    assert all(sound(piece) for piece in pieces if len(piece) > TUN_MTU)
    single = [one for piece in pieces for one in cut(piece, segment, 0)]
    assert list(map(bytes, single)) == segments(version, payload, segment, seq, options)


@given(
    VERSIONS,
    st.integers(1, 20_000),
    SEGMENTS,
    st.integers(0, 2**32 - 1),
    OPTIONS,
    st.integers(1600, MAX_TRAIN),
)
def test_joining_undoes_cutting(
    engine: Engine, version: int, size: int, segment: int, seq: int, options: Any, limit: int
) -> None:
    apart = segments(version, payload_of(size, size), segment, seq, options)
    joined: list[bytearray] = []
    for packet in map(bytearray, apart):
        if not joined or not engine.join(joined[-1], packet, limit):
            joined.append(packet)
    assert all(len(one) <= max(limit, TUN_MTU) for one in joined)
    assert all(sound(one) for one in joined if len(one) > TUN_MTU)
    each = (limit - (len(apart[0]) - min(size, segment))) // segment  # segments that fit one
    if each > 1 and segment > TUN_MTU // 2:  # two of them are longer than a packet
        assert len(joined) <= -(-len(apart) // each) + 1
    assert [bytes(p) for one in joined for p in cut(one, segment, 0)] == apart


def test_trains_are_joined_too(engine: Engine) -> None:
    payload = payload_of(3, 8 * 1400 + 10)
    first, second, rest = (large(4, payload[a:b], a) for a, b in ((0, 2800), (2800, 7000), (7000, None)))
    for part in (first, second, rest):
        assert couple(part, 1400)
    assert engine.join(first, second, MAX_TRAIN)
    assert not engine.join(first, rest, 10_000), "longer than it may be"
    assert engine.join(first, rest, MAX_TRAIN)
    assert list(map(bytes, cut(first, 1400, 0))) == segments(4, payload, 1400, 0)
    assert not engine.join(first, large(4, b"next", len(payload)), MAX_TRAIN), (
        "its last segment is a short one"
    )


def changed(size: int = 1400, **fields: Any) -> Packet:
    tcp = {"sport": 443, "dport": 4000, "seq": 1400, "ack": 77, "window": 500, "flags": "A", **fields}
    return ip(4) / TCP(**tcp) / Raw(bytes(size))


OTHERS: dict[str, Packet] = {
    "a gap": changed(seq=1401),
    "another port": changed(sport=444),
    "another acknowledgement": changed(ack=78),
    "another window": changed(window=501),
    "a reset": changed(flags="RA"),
    "a SYN": changed(flags="SA"),
    "urgent data": changed(flags="UA"),
    "ECN": changed(flags="EA"),
    "options": changed(options=[("NOP", None)] * 4),
    "a wrong checksum": changed(chksum=1),
    "another protocol": ip(4) / UDP(sport=443, dport=4000) / Raw(bytes(1400)),
    "an acknowledgement without data": changed(0),
    "a longer one": changed(1401),
    "another hop limit": IP(src=PEERS[4][0], dst=PEERS[4][1], flags="DF", id=0, ttl=9) / changed()[TCP],
    "a fragment": IP(src=PEERS[4][0], dst=PEERS[4][1], flags="MF", id=0) / changed()[TCP],
    "IPv6": ip(6) / changed()[TCP],
}  # fmt: skip


@pytest.mark.parametrize("why", OTHERS)
def test_what_tells_more_than_its_payload_is_not_joined(engine: Engine, why: str) -> None:
    (first,) = map(bytearray, segments(4, bytes(1400), 1400, 0, last="A"))
    before, other = bytes(first), bytearray(bytes(OTHERS[why]))
    assert not engine.join(first, other, MAX_TRAIN)
    assert first == before
    assert engine.join(first, bytearray(bytes(changed())), MAX_TRAIN), "but this is"


def test_nothing_is_joined_to_an_end_or_to_a_wrong_checksum(engine: Engine) -> None:
    for last, spoil in (("FA", 0), ("A", 1)):
        (first,) = map(bytearray, segments(4, bytes(1400), 1400, 0, last=last))
        first[-1] ^= spoil
        assert not engine.join(first, bytearray(bytes(changed())), MAX_TRAIN)


def test_an_end_is_the_trains_end(engine: Engine) -> None:
    apart = segments(6, payload_of(1, 4000), 1400, 0, last="FPA")
    first = bytearray(apart[0])
    assert all(engine.join(first, bytearray(one), MAX_TRAIN) for one in apart[1:])
    assert list(map(bytes, cut(first, 1400, 0))) == apart


@given(st.binary(max_size=120), st.binary(max_size=120), st.integers(0, MAX_TRAIN))
def test_rubbish_is_neither_joined_nor_sound(engine: Engine, one: bytes, other: bytes, limit: int) -> None:
    assert not engine.join(bytearray(b"\x45" + one), bytearray(b"\x45" + other), limit)
    assert not sound(bytearray(b"\x45" + one))
    assert not sound(bytearray(b"\x60" + one))
    assert cut(bytearray(one), 0, limit) == []


CHANGES = st.lists(st.tuples(st.integers(0, 59), st.integers(1, 255)), max_size=3)


@given(
    VERSIONS,
    st.integers(500, 3000),
    st.integers(1, 3000),
    SEGMENTS,
    CHANGES,
    CHANGES,
    st.integers(1400, 5000),
)
def test_both_engines_join_the_same(
    fast: Engine, version: int, first: int, second: int, segment: int, before: Any, after: Any, limit: int
) -> None:
    payload = payload_of(first, first + second)
    ends = large(version, payload[:first], 0, flags="A"), large(version, payload[first:], first, flags="A")
    for packet, changes in zip(ends, (before, after), strict=True):
        couple(packet, segment)
        for at, change in changes:
            if at < len(packet):
                packet[at] ^= change
    train, other = bytearray(ends[0]), bytearray(ends[0])
    assert PYTHON.join(train, ends[1], limit) == fast.join(other, bytearray(ends[1]), limit)
    assert train == other


@given(st.binary(min_size=2, max_size=70), st.integers(0, 70), st.integers(0, 70))
def test_both_engines_complete_the_same(fast: Engine, packet: bytes, start: int, offset: int) -> None:
    one, other = bytearray(packet), bytearray(packet)
    if start + offset + 2 > len(packet):
        with pytest.raises(ValueError, match="no room"):
            fast.complete(one, start, offset)
        return
    PYTHON.complete(one, start, offset)
    fast.complete(other, start, offset)
    assert one == other


def unsound(**fields: Any) -> bytearray:
    """A train with one thing wrong."""
    made = train()
    for at, value in fields["bytes"].items():
        made[at] = value
    return made


@pytest.mark.parametrize("made", [
    unsound(bytes={0: 0x46}),  # options
    unsound(bytes={0: 0x55}),  # no version
    unsound(bytes={2: 0x10}),  # another length
    unsound(bytes={6: 0x20}),  # more fragments
    unsound(bytes={7: 0x01}),  # an offset
    unsound(bytes={9: 17}),  # UDP
    unsound(bytes={32: 0x40}),  # a TCP header too short
    unsound(bytes={33: 0x12}),  # a SYN
    unsound(bytes={33: 0x14}),  # a reset
    unsound(bytes={33: 0x30}),  # urgent
    unsound(bytes={36: 0, 37: 0}),  # segments of nothing: as many as there are bytes
    unsound(bytes={36: 0, 37: 255}),  # too small
    unsound(bytes={36: 0x05, 37: 0xB5}),  # longer than the MTU takes
    train(size=MAX_TRAIN - 39),
])  # fmt: skip
def test_unsound_trains(made: bytearray) -> None:
    assert not sound(made)


def test_sound_trains() -> None:
    assert sound(train())
    assert sound(train(6))
    assert sound(train(size=MAX_TRAIN - 40))
    assert sound(train(size=1461))


def test_what_cannot_be_a_train() -> None:
    assert not couple(bytearray(bytes(ip(4) / ICMP() / Raw(bytes(3000)))), 1000)
    assert not couple(large(4, bytes(1000), 0), 500), "fits a packet"
    assert not couple(large(4, bytes(3000), 0), 100)
    assert not couple(large(4, bytes(3000), 0, flags="S"), 1000)
    routed = (
        IP(src=PEERS[4][0], dst=PEERS[4][1], options=[IPOption_Router_Alert()]) / TCP() / Raw(bytes(3000))
    )
    extended = ip(6) / IPv6ExtHdrDestOpt() / TCP() / Raw(bytes(3000))
    for one in (routed, extended):
        made = bytearray(bytes(one))
        assert not couple(made, 1000)
        assert b"".join(bytes(type(one)(bytes(p))[TCP].payload) for p in cut(made, 1000, 0)) == bytes(3000)


@pytest.mark.parametrize("version", [4, 6])
def test_a_train_is_rewritten_like_its_segments(engine: Engine, version: int) -> None:
    pool = {4: "100.64.3.7", 6: "fd61:6e6f:6e6f::307"}
    rewriter = Rewriter(*(ip_address(pool[v]).packed for v in (4, 6)), engine.rewrite)
    payload = payload_of(2, 4000)
    expected = []
    for packet in segments(version, payload, 1400, 5):
        built = (IP if version == 4 else IPv6)(packet)
        built.src, built.dst = built.dst, built.src
        del built[TCP].chksum
        if version == 4:
            del built.chksum
        mirrored = bytearray(bytes(built))
        assert rewriter.outward(mirrored)
        expected.append(bytes(mirrored))
    built = (IP if version == 4 else IPv6)(bytes(large(version, payload, 5)))
    built.src, built.dst = built.dst, built.src
    if version == 4:
        del built.chksum
    whole = bytearray(bytes(built))
    assert couple(whole, 1400)
    assert rewriter.outward(whole)
    assert sound(whole)
    assert segment_of(whole, tcp_at(whole)) == 1400
    assert list(map(bytes, cut(whole, 1400, 0))) == expected
