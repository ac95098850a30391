"""The links of one beat: all are asked when one of them changes, and only then, and counted rightly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anonnet.proto.engine import Engine
from anonnet.proto.lane import Convoy, PlaneLink
from anonnet.proto.orders import Endpoint
from anonnet.proto.pacer import LATE_NS, Beat
from anonnet.spec import NARROW, DatagramType
from anonnet.wire.datagram import word
from tests.proto.test_lane import KEY, OTHER_KEY, TICK, Source

CELLS = 6
RATE = 400_000  # two cells a tick
LATE = 2 * LATE_NS


class Links:
    """A convoy and its links; the first has a key and a route, the second neither."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.beat = Beat(TICK, 0, bytes)
        self.convoy = Convoy(self.beat, engine)
        self.source = Source(256)
        self.links: list[PlaneLink] = []
        for _ in range(2):
            self.add()
        self.links[0].set_session(1, 2, KEY, KEY, confirm=False)
        self.links[0].add_lane(self.source.lane(engine, RATE))

    def add(self) -> None:
        link = PlaneLink(1, NARROW, Endpoint("raw", "10.0.0.2", 0), self.convoy, CELLS, self.engine)
        self.convoy.add(link)
        self.links.append(link)

    def prepare(self) -> None:
        self.convoy.prepare(self.beat.tick)

    def emit(self, after: int = 0) -> None:
        """Let what is prepared go out so many ns after its deadline."""
        self.convoy.emitted(*self.beat.advance(self.beat.deadline + after))

    def go(self, after: int = 0) -> None:
        self.prepare()
        self.emit(after)

    @property
    def ready(self) -> list[int]:
        return [link.ready for link in self.links]

    @property
    def sent(self) -> list[int]:
        return [link.stats().cells_sent for link in self.links]


@pytest.fixture
def row(engine: Engine) -> Links:
    return Links(engine)


def test_what_changes_between_two_ticks_is_in_the_next(row: Links) -> None:
    one, other = row.links
    row.go()
    row.go()
    assert row.sent == [12, 0]
    other.set_session(3, 4, KEY, KEY, confirm=False)
    one.shake(b"h" * NARROW.datagram_len)
    row.go()
    assert bytes(one.outbox.views[0]) == b"h" * NARROW.datagram_len
    row.go()
    assert bytes(one.outbox.views[0][:4]) == word(DatagramType.DATA, 2).to_bytes(4, "big")
    assert row.sent == [24, 12]
    one.drop_session()
    row.go()
    assert (row.sent, one.ready) == ([24, 18], 0)


CHANGES: dict[str, Callable[[Links], object]] = {
    "a link comes": lambda row: row.add(),
    "a link goes": lambda row: row.convoy.remove(row.links[1]),
    "a key": lambda row: row.links[0].set_session(3, 4, OTHER_KEY, OTHER_KEY, confirm=False),
    "the neighbour moves": lambda row: row.links[0].move(Endpoint("raw", "10.0.0.3", 0)),
    "the neighbour is gone": lambda row: row.links[0].drop_session(),
    "a route": lambda row: row.links[0].add_lane(Source(257).lane(row.engine, RATE)),
    "a handshake": lambda row: row.links[1].shake(bytes(NARROW.datagram_len)),
    "skipped ticks": lambda row: row.go(2 * TICK),
    "a tick put off": lambda row: row.convoy.put_off(row.beat.tick),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_is_asked_about_before_the_next_tick(
    row: Links, change: Callable[[Links], object]
) -> None:
    """Who sends the datagrams looks up again where to, and how many, whenever the links have been asked."""
    row.go()
    asked = row.convoy.asked
    row.go()
    row.go()
    assert row.convoy.asked == asked, "a tick like the last asks nobody"
    change(row)
    row.go()
    assert row.convoy.asked == asked + 1


def test_late_and_skipped_ticks_are_counted_of_links_with_a_key(row: Links) -> None:
    for times in (1, 2):
        for after in (0, LATE, LATE, 0, 3 * TICK, 0, TICK, LATE):
            row.go(after)
        one, other = (link.stats() for link in row.links)
        assert one.cells_sent == times * 8 * CELLS
        assert (one.late_ticks, one.skipped_ticks) == (times * 5, times * 4)
        assert (other.cells_sent, other.late_ticks, other.skipped_ticks) == (0, 0, 0)


def test_a_key_that_comes_when_a_tick_is_sealed_is_not_counted_in_it(row: Links) -> None:
    row.go()
    row.prepare()
    row.links[1].set_session(3, 4, KEY, KEY, confirm=False)
    row.emit()
    row.go()
    assert row.sent == [18, 6]


def test_a_link_that_goes_is_filled_no_more_and_keeps_its_counts(row: Links) -> None:
    gone = row.links[0]
    row.go()
    row.go()
    row.convoy.remove(gone)
    asked = row.source.asked
    row.go()
    assert row.source.asked == asked == 4
    assert gone.stats().cells_sent == 12
    assert row.beat.cells == CELLS, "those of the other link"


def test_a_tick_that_is_put_off_sends_nothing_and_takes_nobodys_slots(row: Links) -> None:
    row.go()
    row.go()
    for _ in range(3):
        row.convoy.put_off(row.beat.tick)
        assert row.ready == [0, 0]
        row.emit()
    assert row.sent == [12, 0]
    row.go()
    row.go()
    assert (row.sent, row.source.asked, row.source.skipped) == ([24, 0], 8, 0)
    row.convoy.put_off(row.beat.tick)
    row.emit(2 * TICK)
    row.go()
    assert row.source.skipped == 4, "ticks that were skipped besides are another matter"
