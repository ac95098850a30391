"""Descriptors and invites: vectors with every refusal, one encoding each, bounds."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from anonnet import errors
from anonnet.errors import Malformed, PeerFault
from anonnet.ids import NodeId
from anonnet.wire.descriptor import (
    MAX_LEN,
    SIGN_LABEL,
    Address,
    Descriptor,
    Transport,
    decode,
    encode,
    invite,
    parse_invite,
    sign,
    verify,
)
from tests.vectors import harm, load

VECTOR = load("descriptor")
IDENTITY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["identity_private"]))
SIGNED = bytes.fromhex(VECTOR["signed"])
GOOD = Descriptor(
    suite_code=VECTOR["suite_code"],
    epoch=VECTOR["epoch"],
    identity=IDENTITY.public_key().public_bytes_raw(),
    link=bytes.fromhex(VECTOR["link"]),
    onion=bytes.fromhex(VECTOR["onion"]),
    exit4=VECTOR["exit4"],
    exit6=VECTOR["exit6"],
    addresses=tuple(Address(Transport(t), ip_address(h), p) for t, h, p in VECTOR["addresses"]),
    neighbours=tuple(NodeId(bytes.fromhex(n)) for n in VECTOR["neighbours"]),
    name=VECTOR["name"],
)


def test_known_answers() -> None:
    assert sign(GOOD, IDENTITY) == SIGNED
    assert verify(SIGNED) == GOOD
    assert GOOD.node_id.hex() == VECTOR["node_id"]
    assert invite(SIGNED) == VECTOR["invite"]
    assert parse_invite(VECTOR["invite"]) == GOOD
    assert parse_invite(f"  {VECTOR['invite']}\n") == GOOD  # as it comes out of a terminal


@pytest.mark.parametrize("case", VECTOR["refused"], ids=lambda c: c["name"])
def test_damaged(case: dict[str, Any]) -> None:
    with pytest.raises(getattr(errors, case["expect"])):
        verify(harm(SIGNED, case["harm"]))


def test_every_flipped_bit_is_refused() -> None:
    for bit in range(len(SIGNED) * 8):
        with pytest.raises(PeerFault):
            verify(harm(SIGNED, {"xor": [bit // 8, 1 << bit % 8]}))


def test_every_truncation_is_refused() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(PeerFault):
            verify(SIGNED[:length])


@pytest.mark.parametrize("what", VECTOR["illegal_though_signed"])
def test_a_good_signature_does_not_make_it_legal(what: str) -> None:
    signed = bytes.fromhex(VECTOR["illegal_though_signed"][what])
    IDENTITY.public_key().verify(signed[-64:], SIGN_LABEL + signed[:-64])
    with pytest.raises(Malformed):
        verify(signed)


@pytest.mark.parametrize("text", VECTOR["invites_refused"].values(), ids=VECTOR["invites_refused"])
def test_refused_invites(text: str) -> None:
    with pytest.raises(Malformed):
        parse_invite(text)


def test_invites_are_bounded_and_have_one_spelling() -> None:
    with pytest.raises(Malformed):
        parse_invite("anonnet:" + "A" * 10_000_000)
    text = invite(SIGNED + bytes(2 - len(SIGNED) % 3))  # two bytes in the last group: spare bits
    with pytest.raises(Malformed):
        parse_invite(text[:-1] + chr(ord(text[-1]) + 1))
    slip = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    with pytest.raises(Malformed):  # a slip in copying, not forgery
        parse_invite(slip)


names = st.text(max_size=32).filter(lambda s: s.isprintable() and len(s.encode()) <= 32)
hosts4 = st.integers(0x01000000, 0xDFFFFFFF).map(IPv4Address)
hosts6 = st.integers(1 << 125, (1 << 126) - 1).map(IPv6Address)
hosts: st.SearchStrategy[IPv4Address | IPv6Address] = hosts4 | hosts6
addresses = st.builds(Address, st.just(Transport.RAW), hosts, st.just(0)) | st.builds(
    Address, st.just(Transport.UDP), hosts, st.integers(1, 65535)
)
node_ids = st.binary(min_size=20, max_size=20).map(NodeId)
descriptors = st.builds(
    Descriptor,
    suite_code=st.integers(0, 255),
    epoch=st.integers(0, 2**32 - 1),
    identity=st.just(GOOD.identity),
    link=st.binary(min_size=32, max_size=32),
    onion=st.binary(min_size=32, max_size=32),
    exit4=st.booleans(),
    exit6=st.booleans(),
    addresses=st.lists(addresses, max_size=8, unique=True).map(tuple),
    neighbours=st.sets(node_ids, max_size=32).map(lambda s: tuple(sorted(s))),
    name=names,
)


@given(descriptors)
def test_round_trip(descriptor: Descriptor) -> None:
    signed = sign(descriptor, IDENTITY)
    assert len(signed) <= MAX_LEN
    assert verify(signed) == descriptor
    assert parse_invite(invite(signed)) == descriptor


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: SIGNED[:103] + tail))
def test_any_bytes_are_legal_or_malformed(data: bytes) -> None:
    try:
        found = decode(data)
    except Malformed:
        return
    assert encode(found) == data


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2**32},
        {"suite_code": -1},
        {"link": bytes(31)},
        {"onion": bytes(33)},
        {"addresses": GOOD.addresses * 2},
        {"addresses": (Address(Transport.UDP, IPv4Address("192.0.2.1"), 70_000),)},
        {"addresses": (Address(Transport.RAW, IPv6Address("fe80::1%eth0"), 0),)},
        {"neighbours": GOOD.neighbours[::-1]},
        {"neighbours": (NodeId(bytes(19)),)},
        {"neighbours": tuple(NodeId(i.to_bytes(20, "big")) for i in range(300))},
        {"name": "x" * 33},
        {"name": "two\nlines"},
    ],
    ids=str,
)
def test_what_cannot_be_said_is_not_signed(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"descriptor|range|byte"):
        sign(replace(GOOD, **change), IDENTITY)


def test_signed_by_itself_only() -> None:
    with pytest.raises(ValueError, match="own identity"):
        sign(GOOD, Ed25519PrivateKey.generate())
