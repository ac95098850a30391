"""What a link sends in a tick: so many cells, of routes as they have earned, then control, then nulls."""

from __future__ import annotations

from collections import Counter

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto.engine import PYTHON, Engine
from anonnet.proto.lane import CONTROL_FIRST, MAX_CONTROL, Convoy, PlaneLink
from anonnet.proto.orders import RATE_UNIT, Endpoint
from anonnet.proto.pacer import Beat
from anonnet.proto.queue import SLIP_SPACING
from anonnet.proto.slots import Lane
from anonnet.spec import HEADER_LEN, NARROW, DatagramType
from anonnet.wire.cell import CELL_HEADER, CellRow, rows
from anonnet.wire.datagram import HEADER, word

KEY, OTHER_KEY = bytes(32), b"k" * 32
TICK = 5_000_000


def link(engine: Engine, cells: int = 6, session: bool = True) -> PlaneLink:
    convoy = Convoy(Beat(TICK, 0, bytes), engine)
    made = PlaneLink(1, NARROW, Endpoint("raw", "10.0.0.2", 0), convoy, cells, engine)
    convoy.add(made)
    if session:
        made.set_session(1, 2, KEY, KEY, confirm=False)
    return made


class Source:
    """A route that always has a cell, unless it holds; counts what it is asked for."""

    def __init__(self, route: int) -> None:
        self.route = route
        self.row = rows(NARROW, 1)[0]
        self.asked = self.skipped = 0
        self.holds = False

    def take(self, _tick: int) -> CellRow | None:
        self.asked += 1
        CELL_HEADER.pack_into(self.row.cell, 0, self.route, self.asked)
        return None if self.holds else self.row

    def skip(self, slots: int) -> None:
        self.skipped += slots

    def lane(self, engine: Engine, rate: int) -> Lane:
        return engine.lane(self.route, rate, TICK, self.take, self.skip)


def fill(sending: PlaneLink) -> None:
    sending.convoy.prepare(sending.beat.tick)


def tick(sending: PlaneLink, key: bytes = KEY) -> list[int]:
    """Prepare and open one batch; return the route ids of its cells."""
    fill(sending)
    ids = []
    for view in sending.outbox.views[: sending.ready]:
        data = bytes(view)
        cell = AESGCM(key).decrypt(data[:HEADER_LEN], data[HEADER_LEN:], None)
        ids.append(CELL_HEADER.unpack_from(cell)[0])
    sending.beat.advance(sending.beat.deadline)
    return ids


def test_always_as_many_datagrams_whatever_there_is(engine: Engine) -> None:
    sending = link(engine)
    source = Source(256)
    assert tick(sending) == [0] * 6
    sending.lanes.append(source.lane(engine, 400_000))  # two cells a tick
    sending.control.extend([b"frame"] * 3)
    assert tick(sending) == [256, 256, 1, 1, 1, 0]
    source.holds = True
    assert tick(sending) == [0] * 6, "a hold leaves its slots to nulls"


def test_what_control_has_to_say_goes_before_a_new_route(engine: Engine) -> None:
    """CREATED, for one, or the route that it is about would leave it one slot in 32."""
    sending = link(engine, cells=1)
    assert [tick(sending) for _ in range(2)] == [[0], [0]]
    sending.control.extend([b"frame"] * 3)
    sending.add_lane(Source(256).lane(engine, 200_000))  # all there is
    assert [tick(sending) for _ in range(6)] == [[1], [1], [1], [256], [256], [256]]


def test_a_new_route_does_not_wait_for_ever(engine: Engine) -> None:
    sending = link(engine, cells=1)
    sending.control.extend([b"frame"] * 100)
    sending.add_lane(Source(256).lane(engine, 200_000))
    assert [tick(sending)[0] for _ in range(CONTROL_FIRST + 5)] == [1] * CONTROL_FIRST + [256] * 5


def test_a_new_route_that_waits_when_ticks_are_skipped_loses_no_slots_that_it_had_not(engine: Engine) -> None:
    sending = link(engine, cells=1)
    source = Source(256)
    sending.control.extend([b"frame"] * 5)
    sending.add_lane(source.lane(engine, 200_000))
    assert tick(sending) == [1]
    sending.beat.advance(sending.beat.deadline + 2 * TICK)
    assert tick(sending) == [1]
    assert source.skipped == 0
    assert tick(sending) == [256]


def test_without_a_session_only_handshakes(engine: Engine) -> None:
    sending = link(engine, session=False)
    fill(sending)
    assert sending.ready == 0
    for _ in range(8):
        sending.shake(bytes(NARROW.datagram_len))
    fill(sending)
    assert (sending.ready, len(sending.handshakes)) == (6, 2)
    for left in (2, 0, 0):
        fill(sending)
        assert sending.ready == left


@given(wishes=st.lists(st.integers(1, 400_000), min_size=1, max_size=12), ticks=st.integers(200, 2000))
@settings(max_examples=50)
def test_each_route_gets_what_it_was_promised(engine: Engine, wishes: list[int], ticks: int) -> None:
    """Rates that are no whole number of cells, together up to 31/32 of the link."""
    capacity = 6 * RATE_UNIT // TICK * 31 // 32
    total = sum(wishes)
    rates = [max(1, rate * capacity // max(total, capacity)) for rate in wishes]
    sending = link(engine)
    sources = [Source(256 + index) for index in range(len(rates))]
    sending.lanes += [source.lane(engine, rate) for source, rate in zip(sources, rates, strict=True)]
    counts = Counter(route for _ in range(ticks) for route in tick(sending))
    for source, rate in zip(sources, rates, strict=True):
        assert abs(counts[source.route] - ticks * rate * TICK / RATE_UNIT) < 5
    assert counts.total() == 6 * ticks


@pytest.mark.parametrize("skipped", [1, 2, 40])
def test_skipped_ticks_take_their_slots_with_them(engine: Engine, skipped: int) -> None:
    sending = link(engine)
    source = Source(256)
    sending.lanes.append(source.lane(engine, 300_000))  # one cell and a half a tick
    for _ in range(4):
        tick(sending)
    fill(sending)
    assert sending.beat.advance(sending.beat.deadline + skipped * TICK) == (True, skipped)
    for _ in range(5):
        tick(sending)
    assert source.asked + source.skipped == (10 + skipped) * 3 // 2
    assert source.skipped in (skipped * 3 // 2, skipped * 3 // 2 + 1)


def test_fresh_keys_are_used_when_the_peer_has_them(engine: Engine) -> None:
    sending = link(engine)
    sending.set_session(3, 4, OTHER_KEY, OTHER_KEY, confirm=True)
    tick(sending, KEY)
    assert HEADER.unpack_from(sending.outbox.views[0]) == (word(DatagramType.DATA, 2), 0)
    sending.switch()
    tick(sending, OTHER_KEY)
    assert HEADER.unpack_from(sending.outbox.views[0]) == (word(DatagramType.DATA, 4), 0)
    assert HEADER.unpack_from(sending.outbox.views[5]) == (word(DatagramType.DATA, 4), 5)
    sending.switch()  # nothing new: the counter must never begin again under one key
    tick(sending, OTHER_KEY)
    assert HEADER.unpack_from(sending.outbox.views[0])[1] == 6


def test_memory_is_bounded(engine: Engine) -> None:
    sending = link(engine)
    for index in range(100):
        sending.set_session(index, index, KEY, KEY, confirm=True)
    sending.control.extend([b"frame"] * (3 * MAX_CONTROL))
    for _ in range(1000):
        sending.shake(bytes(256))
    assert (len(sending.sessions), len(sending.control), len(sending.handshakes)) == (3, MAX_CONTROL, 64)


def test_a_dropped_session_leaves_nothing(engine: Engine) -> None:
    sending = link(engine)
    sending.lanes.append(Source(256).lane(engine, 1000))
    sending.control.append(b"frame")
    sending.routes[256] = lambda slot, row, now: None
    sending.drop_session()
    assert not sending.established
    left = (sending.lanes, sending.control, sending.routes, sending.sessions)
    assert [len(things) for things in left] == [0, 0, 0, 0]
    fill(sending)
    assert sending.ready == 0
    with pytest.raises(ValueError, match="no key"):
        engine.fill([sending.filler], 0)


def test_keys_that_a_lost_neighbour_has_not_confirmed_are_not_sent_on(engine: Engine) -> None:
    sending = link(engine)
    sending.set_session(3, 4, OTHER_KEY, OTHER_KEY, confirm=True)
    sending.drop_session()
    sending.switch()
    fill(sending)
    assert sending.ready == 0


@given(cells=st.integers(1, 40), frames=st.integers(0, 20))
def test_the_queue_of_a_route_that_had_to_wait_needs_no_slip(cells: int, frames: int) -> None:
    """The next hop's clock goes as ours: nothing to make up for, however the route began."""
    sending = link(PYTHON, cells)
    source = Source(256)
    sending.control.extend([b"frame"] * frames)
    lane = source.lane(PYTHON, cells * RATE_UNIT // TICK)
    sending.add_lane(lane)
    queue = PYTHON.queue(NARROW, lane.per_tick / RATE_UNIT)
    onward = 0  # what the next hop owes, in RATE_UNIT-ths of a cell
    for now in range(2 * SLIP_SPACING + 2):
        before = source.asked
        fill(sending)
        for slot in range(before, source.asked):
            assert queue.claim(slot) is not None
            queue.commit(slot)
        slots, onward = divmod(onward + lane.per_tick, RATE_UNIT)
        for _ in range(slots):
            queue.take(now)
    assert queue.slips == 0
