"""Handshake payloads and fragments: vectors, legal values only, any order, bounded memory."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import Malformed
from anonnet.spec import FORMATS, NARROW, WIDE, DatagramType, Format
from anonnet.wire.handshake import (
    ANSWER_LEN,
    MAX_PARTS,
    OFFER_LEN,
    Fragment,
    LinkAnswer,
    LinkOffer,
    Message,
    Reassembler,
    Status,
    chunk_len,
    fragment,
    mac,
    mac1_key,
    open_fragment,
)
from tests.vectors import load

VECTOR = load("handshake")
PUBLIC = bytes.fromhex(VECTOR["receiver_public"])
KEY = mac1_key(PUBLIC)
MESSAGE = bytes.fromhex(VECTOR["message"])
formats = st.sampled_from([WIDE, NARROW])

offers = st.builds(
    LinkOffer,
    timestamp=st.binary(min_size=12, max_size=12),
    index=st.integers(0, 2**24 - 1),
    format_code=st.sampled_from([1, 2]),
    suite_code=st.integers(0, 255),
    tick_ns=st.integers(1, 60 * 10**9),
    cells_out=st.integers(1, 65535),
    cells_in=st.integers(1, 65535),
)
answers = st.builds(
    LinkAnswer,
    index=st.integers(0, 2**24 - 1),
    status=st.sampled_from(Status),
    tick_ns=st.integers(1, 60 * 10**9),
    cells_out=st.integers(1, 65535),
    cells_in=st.integers(1, 65535),
)

# -- payloads ---------------------------------------------------------------------------------------


@given(offers)
def test_offer_round_trip(offer: LinkOffer) -> None:
    assert len(offer.encode()) == OFFER_LEN
    assert LinkOffer.decode(offer.encode()) == offer


@given(answers)
def test_answer_round_trip(answer: LinkAnswer) -> None:
    assert len(answer.encode()) == ANSWER_LEN
    assert LinkAnswer.decode(answer.encode()) == answer
    assert answer.status.text


@given(st.binary(max_size=40) | st.binary(min_size=29, max_size=29) | st.binary(min_size=16, max_size=16))
def test_payloads_are_legal_or_malformed(data: bytes) -> None:
    for kind in (LinkOffer, LinkAnswer):
        with suppress(Malformed):
            assert kind.decode(data).encode() == data


OFFER = LinkOffer(bytes(12), 0xABCDEF, 1, 1, 10_000_000, 45, 44)
ANSWER = LinkAnswer(0x123456, Status.OK, 10_000_000, 44, 45)


def test_known_payloads() -> None:
    assert OFFER.encode().hex() == "00" * 12 + "abcdef" + "01" + "01" + "0000000000989680" + "002d" + "002c"
    assert ANSWER.encode().hex() == "123456" + "00" + "0000000000989680" + "002c" + "002d"


@pytest.mark.parametrize(
    "bad",
    [
        replace(OFFER, format_code=0),
        replace(OFFER, format_code=3),
        replace(OFFER, tick_ns=0),
        replace(OFFER, tick_ns=60 * 10**9 + 1),
        replace(OFFER, cells_out=0),
        replace(OFFER, cells_in=0),
        replace(ANSWER, tick_ns=0),
        replace(ANSWER, cells_in=0),
        replace(ANSWER, status=5),  # type: ignore[arg-type]
    ],
)
def test_illegal_payloads(bad: LinkOffer | LinkAnswer) -> None:
    with pytest.raises(Malformed):
        type(bad).decode(bad.encode())


# -- fragments --------------------------------------------------------------------------------------


def cut(message: bytes, fmt: Format, message_id: int = 1, seed: int = 0) -> list[bytes]:
    kind = DatagramType.INITIATION
    return fragment(message, fmt, kind, 0xABCDEF, message_id, KEY, None, random.Random(seed).randbytes)


def opened(datagrams: list[bytes]) -> list[Fragment]:
    pieces = [open_fragment(d, KEY) for d in datagrams]
    assert all(pieces)
    return [p for p in pieces if p]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("cookie", [None, bytes.fromhex(VECTOR["cookie"])], ids=["without", "with cookie"])
def test_known_datagrams(fmt: Format, cookie: bytes | None) -> None:
    assert KEY.hex() == VECTOR["mac1_key"]
    found = fragment(
        MESSAGE,
        fmt,
        DatagramType.INITIATION,
        VECTOR["index"],
        VECTOR["message_id"],
        KEY,
        cookie,
        lambda n: bytes([VECTOR["random"]]) * n,
    )
    name = "datagrams_with_cookie" if cookie else "datagrams"
    assert [d.hex() for d in found] == VECTOR["formats"][fmt.name][name]
    assert len(found) == {"wide": 2, "narrow": 7}[fmt.name]


@given(st.binary(min_size=1, max_size=MAX_PARTS * chunk_len(NARROW)), formats, st.randoms())
def test_any_order_with_repetitions(message: bytes, fmt: Format, shuffle: random.Random) -> None:
    datagrams = cut(message, fmt)
    assert {len(d) for d in datagrams} == {fmt.datagram_len}
    arriving = opened(datagrams + datagrams[:-1])
    last = arriving.pop(len(datagrams) - 1)
    shuffle.shuffle(arriving)
    reassembler = Reassembler()
    assert not any(reassembler.add(p, b"s", 0) for p in arriving)
    done = reassembler.add(last, b"s", 0)
    assert done == Message(DatagramType.INITIATION, fmt, 0xABCDEF, 1, message)
    assert len(reassembler) == 0


@given(st.binary(max_size=1300))
def test_silence_without_mac1(datagram: bytes) -> None:
    assert open_fragment(datagram, KEY) is None


def test_another_nodes_datagrams() -> None:
    assert open_fragment(cut(MESSAGE, WIDE)[0], mac1_key(bytes(32))) is None


@pytest.mark.parametrize(
    ("offset", "field"),
    [
        pytest.param(0, b"\x03", id="a cookie is no fragment"),
        pytest.param(0, b"\x04", id="nor is data"),
        pytest.param(0, b"\x00", id="no such type"),
        pytest.param(8, b"\x07", id="part beyond parts"),
        pytest.param(9, b"\x00", id="no parts"),
        pytest.param(9, b"\x09", id="too many parts"),
        pytest.param(10, b"\x00\x00", id="empty chunk"),
        pytest.param(10, b"\x00\xd3", id="part in the middle not full"),
        pytest.param(10, b"\x00\xd5", id="chunk longer than its room"),
        pytest.param(10, b"\xff\xff", id="chunk longer than the datagram"),
    ],
)
def test_what_no_encoder_makes(offset: int, field: bytes) -> None:
    """With a right mac1, which anybody who knows our key can make."""
    bad = bytearray(cut(MESSAGE, NARROW)[0][:-32])
    bad[offset : offset + len(field)] = field
    assert open_fragment(bytes(bad) + mac(KEY, bytes(bad)) + bytes(16), KEY) is None


headers = st.builds(
    struct.Struct(">B7sBBH").pack,
    st.integers(0, 5),
    st.binary(min_size=7, max_size=7),
    st.integers(0, MAX_PARTS),
    st.integers(0, MAX_PARTS + 1),
    st.just(chunk_len(NARROW)) | st.integers(0, 300),
)


@given(headers)
def test_any_header_under_a_right_mac1(header: bytes) -> None:
    """What passes can only come from an encoder: cut again, it gives the same header."""
    data = header + bytes(NARROW.datagram_len - 12 - 32)
    piece = open_fragment(data + mac(KEY, data) + bytes(16), KEY)
    if piece is None:
        return
    last = piece.part == piece.parts - 1
    message = bytes(chunk_len(NARROW) * (piece.parts - 1) + (len(piece.chunk) if last else 1))
    again = fragment(message, NARROW, piece.kind, piece.index, piece.message_id, KEY, None, bytes)
    assert again[piece.part][:12] == header


def test_last_part_may_not_be_empty_nor_overlong() -> None:
    for length in (0, 213):
        bad = bytearray(cut(MESSAGE, NARROW)[-1][:-32])
        struct.pack_into(">H", bad, 10, length)
        assert open_fragment(bytes(bad) + mac(KEY, bytes(bad)) + bytes(16), KEY) is None


# -- reassembly -------------------------------------------------------------------------------------


def test_bounded_and_oldest_goes() -> None:
    reassembler = Reassembler(limit=64)
    messages = [opened(cut(MESSAGE, WIDE, i)) for i in range(65)]
    for first, _ in messages:
        reassembler.add(first, b"s", 0)
        assert len(reassembler) <= 64
    assert reassembler.add(messages[64][1], b"s", 0)
    assert reassembler.add(messages[1][1], b"s", 0)
    assert reassembler.add(messages[0][1], b"s", 0) is None  # its first part was evicted


def test_limited_in_time() -> None:
    reassembler = Reassembler(timeout=1000)
    first, second = opened(cut(MESSAGE, WIDE))
    reassembler.add(first, b"s", 0)
    assert reassembler.add(second, b"s", 999)
    reassembler.add(first, b"s", 2000)
    assert reassembler.add(second, b"s", 3000) is None
    assert len(reassembler) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"index": 1},
        {"message_id": 2},
        {"kind": DatagramType.RESPONSE},
        {"parts": 3},
        {"fmt": NARROW},
    ],
    ids=lambda c: next(iter(c)),
)
def test_fragments_that_disagree_do_not_mix(change: dict[str, Any]) -> None:
    first, second = opened(cut(MESSAGE, WIDE))
    reassembler = Reassembler()
    reassembler.add(first, b"s", 0)
    assert reassembler.add(replace(second, **change), b"s", 0) is None
    assert reassembler.add(second, b"another source", 0) is None
    assert reassembler.add(second, b"s", 0)


def test_a_repeated_part_does_not_replace_the_first() -> None:
    first, second = opened(cut(MESSAGE, WIDE))
    reassembler = Reassembler()
    reassembler.add(first, b"s", 0)
    reassembler.add(replace(first, chunk=bytes(len(first.chunk))), b"s", 0)
    done = reassembler.add(second, b"s", 0)
    assert done is not None
    assert done.data == MESSAGE
