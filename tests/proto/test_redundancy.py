"""Modes of a circuit over routes that fail: what is promised of each, against a model of lists."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.errors import OperatorError
from anonnet.proto.circuit import Circuit
from anonnet.proto.engine import PYTHON
from anonnet.proto.redundancy import Redundancy, parse_redundancy
from anonnet.spec import NARROW, WIDE, Format
from anonnet.wire.cell import rows

ROUTES = (11, 12, 13)
NOW = 10**12


class Pair:
    """Two ends of a circuit, and routes between them that may be cut."""

    def __init__(self, shares: int, routes: tuple[int, ...] = ROUTES, fmt: Format = WIDE) -> None:
        self.got: list[bytes] = []
        self.cut: set[int] = set()
        self.sent = dict.fromkeys(routes, 0)
        self.here = Circuit(1, fmt, PYTHON, bool, bool, lambda packet: None)
        self.there = Circuit(1, fmt, PYTHON, bool, bool, lambda packet: self.got.append(bytes(packet)))
        self._row = rows(fmt, 1)[0]
        for route in routes:
            self.here.resize(route, 10_000)
        self.here.arrange(Redundancy(shares))

    def slot(self, route: int, now: int = NOW) -> bool:
        """One slot of a route; whether it carried anything."""
        if not self.here.fill(route, self._row):
            return False
        self.sent[route] += 1
        if route not in self.cut:
            self.there.receive(self._row.payload, now)
        return True

    def drain(self, now: int = NOW) -> None:
        """Slots of all routes in turn until none has anything."""
        while sum(self.slot(route, now) for route in self.sent):
            pass


def packets(count: int, seed: int) -> list[bytes]:
    """Packets of one flow, which keep their order."""
    rng = random.Random(seed)
    head = b"\x45" + bytes(19)
    return [head + rng.randbytes(rng.randint(1, 1480)) for _ in range(count)]


@pytest.mark.parametrize("shares", [0, 1, 2])
@pytest.mark.parametrize("fmt", [WIDE, NARROW])
@given(seed=st.integers(0, 999), count=st.integers(1, 40))
def test_all_arrives_in_order_without_faults(shares: int, fmt: Format, seed: int, count: int) -> None:
    pair = Pair(shares, fmt=fmt)
    wanted = packets(count, seed)
    for packet in wanted:
        pair.here.send(bytearray(packet))
    pair.drain()
    assert pair.got == wanted


@pytest.mark.parametrize("shares", [1, 2])
@given(seed=st.integers(0, 999), cut=st.sampled_from(ROUTES))
def test_one_dead_route_costs_nothing(shares: int, seed: int, cut: int) -> None:
    pair = Pair(shares)
    pair.cut = {cut}
    wanted = packets(40, seed)
    for packet in wanted:
        pair.here.send(bytearray(packet))
        pair.drain()
    assert pair.got == wanted


def test_stripe_is_the_control_that_does_lose() -> None:
    pair = Pair(0)
    pair.cut = {12}
    wanted = packets(40, 1)
    for packet in wanted:
        pair.here.send(bytearray(packet))
    pair.drain()
    pair.there.on_deadline(NOW + 10**9)
    assert 0 < len(pair.got) < len(wanted)


def test_two_dead_routes_of_three_leave_a_mirror_whole_and_break_a_group() -> None:
    wanted = packets(40, 2)
    for shares, whole in ((1, True), (2, False)):
        pair = Pair(shares)
        pair.cut = {11, 13}
        for packet in wanted:
            pair.here.send(bytearray(packet))
        pair.drain()
        assert (pair.got == wanted) is whole


def test_a_group_costs_n_over_k_and_a_mirror_n() -> None:
    wanted = packets(60, 3)
    cells = {}
    for shares in (0, 1, 2):
        pair = Pair(shares)
        for packet in wanted:
            pair.here.send(bytearray(packet))
        pair.drain()
        cells[shares] = sum(pair.sent.values())
    assert cells[1] == 3 * cells[0]
    assert cells[2] == pytest.approx(1.5 * cells[0], rel=0.05)


@given(
    seed=st.integers(0, 999),
    modes=st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8),
    slots=st.integers(0, 7),
)
def test_modes_change_without_a_break(seed: int, modes: list[int], slots: int) -> None:
    pair = Pair(0)
    wanted: list[bytes] = []
    for turn, mode in enumerate(modes):
        some = packets(4, seed + turn)
        wanted += some
        for packet in some:
            pair.here.send(bytearray(packet))
        for index in range(slots):  # leave some of it unsent when the mode changes
            pair.slot(ROUTES[index % 3])
        pair.here.arrange(Redundancy(mode))
    pair.drain()
    assert pair.got == wanted


def test_a_route_that_lags_does_not_hold_up_a_mirror() -> None:
    pair = Pair(1)
    wanted = packets(300, 4)
    for packet in wanted:
        pair.here.send(bytearray(packet))
        while pair.slot(11):
            pass
    assert pair.got == wanted
    pair.drain()
    assert pair.got == wanted  # what the others repeat is dropped


@pytest.mark.parametrize("shares", [1, 2])
def test_a_route_that_comes_back_does_not_stay_behind(shares: int) -> None:
    pair = Pair(shares)
    for route in ROUTES:
        pair.here.resize(route, 400)  # 20 ms are eight cells
    for packet in packets(300, 5):
        pair.here.send(bytearray(packet))
    for turn in range(40):
        for route in ROUTES[turn < 30 :]:  # at first nothing is entrusted to the first route
            pair.slot(route)
    before = len(pair.got)
    pair.cut = {12, 13} if shares == 1 else {12}
    for _ in range(10):
        for route in ROUTES:
            assert pair.slot(route)
    assert len(pair.got) > before


@pytest.mark.parametrize(("text", "shares"), [("stripe", 0), ("mirror", 1), ("2-of-n", 2), ("3-of-4", 3)])
def test_names(text: str, shares: int) -> None:
    assert parse_redundancy(text).shares == shares


@pytest.mark.parametrize("text", ["", "raid", "1-of-n", "99-of-n", "-of-", "2 of n"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(OperatorError, match="write stripe, mirror"):
        parse_redundancy(text)
