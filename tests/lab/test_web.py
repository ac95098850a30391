"""What the web host answers, apart from its sockets."""

from __future__ import annotations

import pytest
from dnslib import DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from anonnet.lab import dns
from anonnet.lab.web import byte_range

NAMES = {"web.lab": ("203.0.113.2", "2001:db8:cafe::2")}


@pytest.mark.parametrize(
    ("name", "kind", "code", "values"),
    [
        ("web.lab", "A", "NOERROR", ["203.0.113.2"]),
        ("WEB.lab", "AAAA", "NOERROR", ["2001:db8:cafe::2"]),
        ("web.lab", "MX", "NOERROR", []),
        ("other.lab", "A", "NXDOMAIN", []),
        ("example.org", "A", "REFUSED", []),
        ("collab", "A", "REFUSED", []),
    ],
)
def test_answers(name: str, kind: str, code: str, values: list[str]) -> None:
    query = DNSRecord.question(name, kind)
    result = dns.answer(query.pack(), NAMES)
    assert result is not None
    reply = DNSRecord.parse(result[0])
    assert result[1:] == (name.lower(), kind, code)
    assert reply.header.id == query.header.id
    assert [str(record.rdata) for record in reply.rr] == values


@given(st.binary(max_size=300))
def test_what_is_no_query_gets_no_answer_and_no_exception(data: bytes) -> None:
    dns.answer(data, NAMES)


def test_an_answer_is_not_answered() -> None:
    reply = dns.answer(DNSRecord.question("web.lab").pack(), NAMES)
    assert reply is not None
    assert dns.answer(reply[0], NAMES) is None


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=50-1000", (50, 100)),
        ("bytes=-", None),
        ("bytes=1-2,5-6", None),
        ("lines=1-2", None),
    ],
)
def test_ranges(header: str | None, part: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=9-3"])
def test_ranges_that_cannot_be_met(header: str) -> None:
    with pytest.raises(ValueError, match="range"):
        byte_range(header, 100)
