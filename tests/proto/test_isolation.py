"""Which circuit a packet goes into, and what may come out of it."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.proto import isolation
from anonnet.proto.circuit import Circuit
from anonnet.proto.isolation import Isolation, Sorter, check_isolation
from anonnet.spec import INNER4_CALLER, INNER6_CALLER

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
SERVER, OTHER, ROUTER = "198.51.100.7", "198.51.100.8", "203.0.113.1"
SERVER6 = "2001:db8::7"


def packet(source: str, target: str, protocol: int, upper: bytes, dscp: int = 0, fragment: int = 0,
           ident: int = 9) -> bytes:  # fmt: skip
    """An IP packet; `fragment` is the IPv4 field. Checksums do not matter here."""
    ends = ip_address(source).packed + ip_address(target).packed
    if ip_address(source).version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, dscp << 2, 20 + len(upper), ident, fragment, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28 | dscp << 22, len(upper), protocol, 64)
    return head + ends + upper


def ports(source: int, target: int) -> bytes:
    return struct.pack(">HH", source, target) + bytes(16)


def away(target: str, protocol: int = UDP, upper: bytes = ports(4000, 443), **more: int) -> bytes:
    return packet(INNER6_CALLER if ":" in target else INNER4_CALLER, target, protocol, upper, **more)


def back(source: str, protocol: int = UDP, upper: bytes = ports(443, 4000), **more: int) -> bytes:
    return packet(source, INNER6_CALLER if ":" in source else INNER4_CALLER, protocol, upper, **more)


def sorter(by: Isolation, circuits: int) -> Sorter:
    made = Sorter()
    made.arrange(by, circuits)
    made.circuits = {number: cast("Circuit", f"circuit {number}") for number in range(1, circuits + 1)}
    return made


def number(made: Sorter, data: bytes) -> int:
    """The number of the circuit that a packet goes into; 0 for none."""
    found = cast("Any", made.choose(bytearray(data)))
    return int(found.split()[1]) if found is not None else 0


def test_off_all_go_into_the_first_whatever_they_say() -> None:
    made = sorter(Isolation.OFF, 1)
    assert {number(made, away(t, dscp=d)) for t in (SERVER, OTHER, SERVER6) for d in (0, 1, 46)} == {1}
    assert made.admits(1, back(ROUTER))


def test_destinations_are_dealt_out_evenly_and_stay() -> None:
    made = sorter(Isolation.DESTINATION, 3)
    targets = [f"198.51.100.{n}" for n in range(1, 10)] + [f"2001:db8::{n}" for n in range(1, 4)]
    first = {target: number(made, away(target)) for target in targets}
    assert made.counts == [4, 4, 4]
    for dscp in (0, 10, 46):  # as programs set it: no say in this
        assert {t: number(made, away(t, TCP, ports(1, 80), dscp=dscp)) for t in targets} == first


@pytest.mark.parametrize("server", [SERVER, SERVER6])
def test_users_are_kept_apart_wherever_they_go(server: str) -> None:
    made = sorter(Isolation.USER, 2)
    assert [number(made, away(server, dscp=c)) for c in (1, 2, 1, 3, 2, 3)] == [1, 2, 1, 1, 2, 1]
    assert number(made, away(OTHER, dscp=2)) == 2
    assert made.counts == [2, 1]


def test_a_key_waits_for_its_circuit() -> None:
    made = sorter(Isolation.DESTINATION, 2)
    assert (number(made, away(SERVER)), number(made, away(OTHER))) == (1, 2)
    lost = made.circuits.pop(2)
    assert (number(made, away(SERVER)), number(made, away(OTHER))) == (1, 0)
    made.circuits[2] = lost
    assert number(made, away(OTHER)) == 2


def test_fewer_or_more_circuits_move_only_what_must_move() -> None:
    made = sorter(Isolation.DESTINATION, 3)
    targets = [f"198.51.100.{n}" for n in range(1, 7)]
    before = {t: number(made, away(t)) for t in targets}
    made.arrange(Isolation.DESTINATION, 2)
    assert made.counts == [2, 2]
    after = {t: number(made, away(t)) for t in targets}
    assert made.counts == [3, 3]
    assert all(after[t] == before[t] for t in targets if before[t] != 3)
    made.arrange(Isolation.USER, 2)
    assert made.counts == [0, 0]


@pytest.mark.parametrize("by", [Isolation.DESTINATION, Isolation.USER])
@pytest.mark.parametrize("server", [SERVER, SERVER6])
def test_only_answers_come_in_and_only_from_the_circuit_that_asked(by: Isolation, server: str) -> None:
    made = sorter(by, 2)
    echo, reply = (128, 129) if ":" in server else (8, 0)
    icmp = ICMP6 if ":" in server else ICMP
    asked = [
        (away(server, dscp=1), back(server)),
        (away(server, TCP, ports(9, 80), dscp=1), back(server, TCP, ports(80, 9))),
        (
            away(server, icmp, struct.pack(">BBHHH", echo, 0, 0, 77, 1), dscp=1),
            back(server, icmp, struct.pack(">BBHHH", reply, 0, 0, 77, 1)),
        ),
        (away(server, 47, b"gre ", dscp=1), back(server, 47, b"gre!")),
    ]
    for question, answer in asked:
        assert not made.admits(1, answer)
        assert number(made, question) == 1
        assert made.admits(1, answer)
        assert not made.admits(2, answer)
    # Another port, another server: nobody asked there.
    assert not made.admits(1, back(server, upper=ports(443, 4001)))
    assert not made.admits(1, back(server, upper=ports(80, 4000)))
    assert not made.admits(1, back(server, TCP))
    assert not made.admits(1, back("2001:db8::8" if ":" in server else OTHER))


@pytest.mark.parametrize("server", [SERVER, SERVER6])
def test_an_error_comes_in_where_the_packet_that_it_is_about_went_out(server: str) -> None:
    made = sorter(Isolation.USER, 2)
    question = away(server, dscp=2)
    router, icmp, kind = ("2001:db8::1", ICMP6, 1) if ":" in server else (ROUTER, ICMP, 3)
    error = back(router, icmp, bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + question[:60])
    assert not made.admits(1, error)
    assert number(made, question) == 1
    assert made.admits(1, error)
    assert not made.admits(2, error)


def test_the_pieces_of_an_answer_come_in_after_the_first() -> None:
    made = sorter(Isolation.USER, 2)
    assert number(made, away(SERVER, dscp=1)) == 1
    rest = back(SERVER, upper=bytes(40), fragment=2)
    assert not made.admits(1, rest)
    assert made.admits(1, back(SERVER, fragment=0x2000))
    assert made.admits(1, rest)
    assert not made.admits(2, rest)
    assert not made.admits(1, back(SERVER, upper=bytes(40), fragment=2, ident=10))
    one = struct.pack(">BBHI", UDP, 0, 1, 5) + ports(443, 4000)
    two = struct.pack(">BBHI", UDP, 0, 2 << 3, 5) + bytes(40)
    assert number(made, away(SERVER6, dscp=1)) == 1
    assert not made.admits(1, back(SERVER6, 44, two))
    assert made.admits(1, back(SERVER6, 44, one))
    assert made.admits(1, back(SERVER6, 44, two))


def test_both_tables_are_bounded_and_forget_what_was_unused_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MAX_KEYS", 4)
    monkeypatch.setattr(isolation, "MAX_FLOWS", 6)
    made = sorter(Isolation.DESTINATION, 2)
    kept = number(made, away(SERVER))
    for n in range(100, 200):
        number(made, away(f"192.0.2.{n}"))
        assert number(made, away(SERVER)) == kept
        assert made.admits(kept, back(SERVER))
        assert sum(made.counts) <= 4
    assert not made.admits(1, back("192.0.2.100"))
    assert not made.admits(2, back("192.0.2.100"))


@given(st.sampled_from(Isolation), st.lists(st.binary(max_size=80), max_size=20))
def test_any_bytes_are_sorted_or_dropped(by: Isolation, packets: list[bytes]) -> None:
    made = sorter(by, 3)
    for data in packets:
        assert 0 <= number(made, data) <= 3
        made.admits(1, bytearray(data))


@given(st.sampled_from([4, 6]), st.binary(min_size=20, max_size=60), st.integers(0, 255))
def test_any_upper_layer_is_read_without_an_error(version: int, upper: bytes, protocol: int) -> None:
    made = sorter(Isolation.DESTINATION, 2)
    server = SERVER if version == 4 else SERVER6
    number(made, away(server, protocol, upper))
    made.admits(1, back(server, protocol, upper))


def test_wishes_that_make_no_sense() -> None:
    with pytest.raises(OperatorError, match="2 circuits, and nothing says"):
        check_isolation(Isolation.OFF, 2)
    with pytest.raises(OperatorError, match="by user in one circuit keeps nothing apart"):
        check_isolation(Isolation.USER, 1)
    check_isolation(Isolation.OFF, 1)
    check_isolation(Isolation.DESTINATION, 2)
