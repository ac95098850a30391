"""Link control messages: round trips, published vectors, and bytes that no encoder makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import Malformed
from anonnet.ids import RouteId
from anonnet.spec import ROUTE_FIRST
from anonnet.wire import control as c

ROUTES = st.integers(ROUTE_FIRST, 0xFFFFFFFF).map(RouteId)
RATES = st.integers(1, 0xFFFFFFFF)
REASONS = st.sampled_from(c.Reason)
HANDSHAKES = st.binary(min_size=1, max_size=2000)
U64 = st.integers(0, 2**64 - 1)
MESSAGES = st.one_of(
    st.builds(c.Create, ROUTES, RATES, RATES, st.sampled_from([1, 2]), HANDSHAKES),
    st.builds(c.Created, ROUTES, HANDSHAKES),
    st.builds(c.Refused, ROUTES, REASONS),
    st.builds(c.Destroy, ROUTES, REASONS),
    st.builds(c.Rekey, st.integers(0, 2**24 - 1), HANDSHAKES),
    st.builds(c.Rekeyed, HANDSHAKES),
    st.builds(c.Bye, REASONS),
    st.builds(c.Echo, U64),
    st.builds(c.EchoReply, U64),
)

VECTORS = [
    ("01 80000100 000003e8 000007d0 01 aabb", c.Create(RouteId(0x80000100), 1000, 2000, 1, b"\xaa\xbb")),
    ("02 00000100 cc", c.Created(RouteId(0x100), b"\xcc")),
    ("03 00000100 03", c.Refused(RouteId(0x100), c.Reason.NO_SLOTS)),
    ("04 00000100 09", c.Destroy(RouteId(0x100), c.Reason.GAPS)),
    ("05 010203 dd", c.Rekey(0x010203, b"\xdd")),
    ("06 ee", c.Rekeyed(b"\xee")),
    ("07 0d", c.Bye(c.Reason.STOPPING)),
    ("08 0102030405060708", c.Echo(0x0102030405060708)),
    ("09 0102030405060708", c.EchoReply(0x0102030405060708)),
]

ILLEGAL = {
    "empty": "",
    "type 0": "00",
    "unknown type": "7f 00",
    "a link's own route id": "02 00000001 cc",
    "rate 0": "01 80000100 00000000 000007d0 01 aabb",
    "unknown format": "01 80000100 000003e8 000007d0 07 aabb",
    "no handshake": "02 00000100",
    "unknown reason": "07 ee",
    "trailing byte": "08 0102030405060708 00",
    "cut off": "08 01020304050607",
    "handshake too long": "06" + "00" * 4096,
}


@pytest.mark.parametrize(("raw", "message"), VECTORS)
def test_vectors(raw: str, message: c.ControlMessage) -> None:
    assert c.encode(message) == bytes.fromhex(raw)
    assert c.decode(bytes.fromhex(raw)) == message


@pytest.mark.parametrize("raw", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_illegal_bytes_are_malformed(raw: str) -> None:
    with pytest.raises(Malformed):
        c.decode(bytes.fromhex(raw))


@given(MESSAGES)
def test_round_trip(message: c.ControlMessage) -> None:
    assert c.decode(c.encode(message)) == message


@given(st.binary(max_size=64))
def test_decoding_is_exact_or_malformed(raw: bytes) -> None:
    try:
        message = c.decode(raw)
    except Malformed:
        return
    assert c.encode(message) == raw


@pytest.mark.parametrize(
    "message",
    [
        c.Created(RouteId(1), b"x"),
        c.Rekeyed(b""),
        c.Create(RouteId(256), 0, 1, 1, b"x"),
        c.Rekey(1 << 24, b"x"),
        c.Echo(-1),
    ],
)
def test_our_own_illegal_values_are_our_fault(message: c.ControlMessage) -> None:
    with pytest.raises((ValueError, OverflowError)):
        c.encode(message)


def test_every_reason_has_one_line_for_a_person() -> None:
    texts = [reason.text for reason in c.Reason]
    assert len(set(texts)) == len(texts)
    assert all(text and "\n" not in text for text in texts)
