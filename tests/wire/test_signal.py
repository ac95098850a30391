"""Route signalling: round trips, published vectors, and bytes that no encoder makes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import Malformed
from anonnet.ids import NodeId
from anonnet.wire import signal as s
from anonnet.wire.control import Reason

REASONS = st.sampled_from(Reason)
HANDSHAKES = st.binary(min_size=1, max_size=2000)
U64 = st.integers(0, 2**64 - 1)
MESSAGES = st.one_of(
    st.builds(s.Extend, st.binary(min_size=20, max_size=20).map(NodeId), HANDSHAKES),
    st.builds(s.Extended, st.integers(0, 2**32 - 1), HANDSHAKES),
    st.builds(s.ExtendRefused, REASONS),
    st.builds(s.Open, st.binary(min_size=32, max_size=32)),
    st.builds(s.Opened, st.integers(0, 2**32 - 1)),
    st.builds(s.OpenRefused, REASONS),
    st.builds(s.Echo, U64),
    st.builds(s.EchoReply, U64),
    st.just(s.Joined()),
    st.builds(s.Arrange, st.integers(0, 14)),
    st.just(s.Drain()),
    st.just(s.Drained()),
    st.builds(s.End, REASONS),
)

VECTORS = [
    ("01" + "11" * 20 + "aabb", s.Extend(NodeId(b"\x11" * 20), b"\xaa\xbb")),
    ("02 01020304 cc", s.Extended(0x01020304, b"\xcc")),
    ("03 02", s.ExtendRefused(Reason.NO_LINK)),
    ("04" + "22" * 32, s.Open(b"\x22" * 32)),
    ("05 01020304", s.Opened(0x01020304)),
    ("06 06", s.OpenRefused(Reason.NOT_EXIT)),
    ("07 0102030405060708", s.Echo(0x0102030405060708)),
    ("08 0102030405060708", s.EchoReply(0x0102030405060708)),
    ("09", s.Joined()),
    ("0b 02", s.Arrange(2)),
    ("0c", s.Drain()),
    ("0d", s.Drained()),
    ("0a 01", s.End(Reason.FINISHED)),
]

ILLEGAL = {
    "empty": "",
    "unknown type": "0e",
    "shares out of range": "0b 0f",
    "next hop cut off": "01" + "11" * 19,
    "no handshake": "01" + "11" * 20,
    "no handshake after the shift": "02 01020304",
    "secret too short": "04" + "22" * 31,
    "secret too long": "04" + "22" * 33,
    "trailing byte": "05 00000000 00",
    "half an incarnation": "05 0102",
    "unknown reason": "0a 0e",
}


@pytest.mark.parametrize(("raw", "message"), VECTORS)
def test_vectors(raw: str, message: s.SignalMessage) -> None:
    assert s.encode(message) == bytes.fromhex(raw)
    assert s.decode(bytes.fromhex(raw)) == message


@pytest.mark.parametrize("raw", ILLEGAL.values(), ids=ILLEGAL.keys())
def test_illegal_bytes_are_malformed(raw: str) -> None:
    with pytest.raises(Malformed):
        s.decode(bytes.fromhex(raw))


@given(MESSAGES)
def test_round_trip(message: s.SignalMessage) -> None:
    assert s.decode(s.encode(message)) == message


@given(st.binary(max_size=64))
def test_decoding_is_exact_or_malformed(raw: bytes) -> None:
    try:
        message = s.decode(raw)
    except Malformed:
        return
    assert s.encode(message) == raw
