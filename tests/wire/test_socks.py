"""SOCKS messages, byte by byte as RFC 1928, RFC 1929 and Tor's socks-extensions.txt draw them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import Malformed
from anonnet.wire import socks
from anonnet.wire.socks import Command, Credentials, Reply, Target

FOUR, SIX = IPv4Address("198.51.100.7"), IPv6Address("2001:db8::7")

REQUESTS = {
    "05 01 00 01 c6336407 0050": (Command.CONNECT, Target(FOUR, 80)),
    "05 01 00 04 20010db8000000000000000000000007 01bb": (Command.CONNECT, Target(SIX, 443)),
    "05 01 00 03 07 7765622e6c6162 0019": (Command.CONNECT, Target("web.lab", 25)),
    "05 03 00 01 00000000 0000": (Command.UDP_ASSOCIATE, Target(IPv4Address(0), 0)),
    "05 f0 00 03 07 7765622e6c6162 0000": (Command.RESOLVE, Target("web.lab", 0)),
    "05 f1 00 01 c6336407 0000": (Command.RESOLVE_PTR, Target(FOUR, 0)),
    "05 07 00 01 c6336407 0050": (7, Target(FOUR, 80)),  # no command at all
    # An address that came as a name is none: nobody is to be asked for it.
    "05 01 00 03 0c 3139382e35312e3130302e37 0050": (Command.CONNECT, Target(FOUR, 80)),
    "05 01 00 03 0d 5b323030313a6462383a3a375d 0050": (Command.CONNECT, Target(SIX, 80)),
}
BAD_REQUESTS = (
    "04 01 00 01 c6336407 0050",  # version 4
    "05 01 00 02 c6336407 0050",  # no such address type
    "05 01 00 03 00 0050",  # an empty name
    "05 01 00 03 02 6120 0050",  # a space in it
    "05 01 00 03 02 6100 0050",  # a NUL
    "05 01 00 03 02 c3a4 0050",  # not ASCII
    "05 01 00 01 c63364",  # cut short
)


@pytest.mark.parametrize("text", REQUESTS)
def test_requests(text: str) -> None:
    assert socks.read_all(socks.read_request(), bytes.fromhex(text) + b"more") == (REQUESTS[text], b"more")


@pytest.mark.parametrize("text", BAD_REQUESTS)
def test_no_request(text: str) -> None:
    with pytest.raises(Malformed):
        socks.read_all(socks.read_request(), bytes.fromhex(text))


def test_methods_and_credentials() -> None:
    assert socks.read_all(socks.read_methods(), bytes.fromhex("05 02 00 02")) == ({0, 2}, b"")
    with pytest.raises(Malformed):
        socks.read_all(socks.read_methods(), b"GET / HTTP/1.1")
    said = bytes.fromhex("01 03 616e6e 02 7831")
    assert socks.read_all(socks.read_credentials(), said) == (Credentials(b"ann", b"x1"), b"")
    with pytest.raises(Malformed):
        socks.read_all(socks.read_credentials(), b"\x02" + said[1:])
    assert socks.write_method(socks.Method.PASSWORD) == bytes.fromhex("0502")
    assert socks.write_accepted() == bytes.fromhex("0100")


def test_replies() -> None:
    assert socks.write_reply(Reply.REFUSED) == bytes.fromhex("05 05 00 01 00000000 0000")
    bound = socks.write_reply(Reply.DONE, Target(SIX, 1080))
    assert bound == bytes.fromhex("05 00 00 04 20010db8000000000000000000000007 0438")


def test_datagrams() -> None:
    header = bytes.fromhex("0000 00 01 c6336407 0035")
    assert socks.write_datagram_header(Target(FOUR, 53)) == header
    assert socks.read_all(socks.read_datagram_header(), header + b"hello") == (Target(FOUR, 53), b"hello")
    fragment = bytes.fromhex("0000 01 01 c6336407 0035")
    assert socks.read_all(socks.read_datagram_header(), fragment)[0] is None


@given(st.binary(max_size=300))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for reading in (
        socks.read_methods(), socks.read_credentials(), socks.read_request(), socks.read_datagram_header(),
    ):  # fmt: skip
        try:
            _, rest = socks.read_all(reading, data)  # type: ignore[arg-type]
        except Malformed:
            continue
        assert data.endswith(rest)
